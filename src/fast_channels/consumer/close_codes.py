"""Close codes, and the one log line about the end of a connection."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from fast_channels.exceptions import InvalidMessage, MessageTooLarge

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage, ChannelScope

logger = logging.getLogger("fast_channels.consumer")

# Close codes of RFC 6455, section 7.4.1, and of its IANA registry.
NORMAL = 1000
GOING_AWAY = 1001
UNSUPPORTED_DATA = 1003
NO_CODE = 1005
ABNORMAL = 1006
INVALID_DATA = 1007
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013

# The name of a limit is the attribute that sets it.
Limit: TypeAlias = Literal[
    "send_timeout",
    "overflow",
    "max_frame_size",
    "rate_limit",
    "max_connections",
    "heartbeat_timeout",
]
# client: the client left or is gone. consumer: close(), or the end of the consumer. rejection:
# close() before accept(). error: a handler raised. layer: the layer was closed or flushed, or
# reported a gap. server: the server shut down, cancelled the application or refused an event.
# protocol: the client broke the rules of its sub-protocol.
EndedBy: TypeAlias = (
    Limit | Literal["client", "consumer", "rejection", "error", "layer", "server", "protocol"]
)

# A close frame holds 125 bytes, two of which are the code.
MAX_REASON_BYTES = 123

LIMITS: frozenset[str] = frozenset(get_args(Limit))


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a connection: its code and reason, and the side or limit that ended it."""

    code: int | None
    """The close code of a WebSocket; None for other connections."""

    reason: str
    """The reason in the close frame, or another explanation for the log."""

    by: EndedBy
    """The side or limit that ended the connection."""


def shortened(reason: str) -> str:
    """Return a reason that fits into a close frame."""
    return reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")


def is_clients_mistake(exc: Exception, message: ChannelMessage) -> bool:
    """
    Return whether the content of a valid frame cannot be sent through a layer.

    JSON has numbers of any length, and the message may be larger than the frame.
    """
    if message["type"] != "websocket.receive":
        return False
    too_long = isinstance(exc, InvalidMessage) and isinstance(exc.__cause__, OverflowError)
    return too_long or isinstance(exc, MessageTooLarge)


def log_ending(
    name: str, scope: ChannelScope, ending: Ending, seconds: float, usual: int = logging.INFO
) -> None:
    """
    Write one log line: a WARNING if a limit ended the connection, or else of level `usual`.

    The line has no query string, because query strings may contain tokens. Values that a client
    can choose are quoted, so that a client cannot forge log lines.
    """
    logger.log(
        logging.WARNING if ending.by in LIMITS else usual,
        "%s closed: client=%s path=%r code=%s reason=%r by=%s after=%.3fs",
        name,
        _client_address(scope.get("client")),
        scope.get("path"),
        ending.code,
        ending.reason,
        ending.by,
        seconds,
    )


def _client_address(client: object) -> str:
    match client:
        case (host, port):
            return f"{host}:{port}"
        case _:
            # Unix sockets have no address, and tests may leave it out.
            return "unknown"
