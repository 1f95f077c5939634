"""JSON that can carry bytes, between the tests and the peer process; needs only Python."""


def to_json(value):
    if isinstance(value, bytes):
        return {"$hex": value.hex()}
    raise TypeError(value)


def from_json(mapping):
    return bytes.fromhex(mapping["$hex"]) if mapping.keys() == {"$hex"} else mapping
