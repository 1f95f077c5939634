"""How a connection ended, and the one line in the log that says so."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from fast_channels.exceptions import InvalidMessage, MessageTooLarge

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage, ChannelScope

logger = logging.getLogger("fast_channels.consumer")

# Close codes of RFC 6455, section 7.4.1, and of the IANA registry it founded.
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

# A limit is called by the attribute that sets it, where there is one.
Limit: TypeAlias = Literal[
    "send_timeout",
    "overflow",
    "max_frame_size",
    "rate_limit",
    "max_connections",
    "heartbeat_timeout",
]
# client: left, or is gone. consumer: close(), or the end of what it does;
# rejection: likewise, before accept(). error: a handler raised. layer: closed,
# flushed, or a gap. server: shut down, cancelled the application or refused an
# event. protocol: the client does not keep to the one that it has chosen.
EndedBy: TypeAlias = (
    Limit | Literal["client", "consumer", "rejection", "error", "layer", "server", "protocol"]
)

# A close frame holds 125 bytes, two of which are the code.
REASON_LIMIT = 123

LIMITS: frozenset[str] = frozenset(get_args(Limit))


@dataclass(frozen=True, slots=True)
class Ending:
    """What a client was told at the end, or told us, and who began it."""

    # The close code of a WebSocket; None for other connections.
    code: int | None
    reason: str
    by: EndedBy


def shortened(reason: str) -> str:
    """Return what a close frame has room for."""
    return reason.encode(errors="replace")[:REASON_LIMIT].decode(errors="ignore")


def is_clients_mistake(exc: Exception, message: ChannelMessage) -> bool:
    """
    Whether a frame was in order, but what it contained is beyond what a layer carries.

    JSON has numbers of any length, and as a message it may be larger than it was.
    """
    if message["type"] != "websocket.receive":
        return False
    too_long = isinstance(exc, InvalidMessage) and isinstance(exc.__cause__, OverflowError)
    return too_long or isinstance(exc, MessageTooLarge)


def log_ending(
    name: str, scope: ChannelScope, ending: Ending, seconds: float, usual: int = logging.INFO
) -> None:
    """
    Write one line: a WARNING if a limit ended the connection, else of level `usual`.

    The query string is left out, for that is where tokens travel. What a client
    can choose is quoted, so that it cannot write lines of its own.
    """
    logger.log(
        logging.WARNING if ending.by in LIMITS else usual,
        "%s closed: client=%s path=%r code=%s reason=%r by=%s after=%.3fs",
        name,
        _address(scope.get("client")),
        scope.get("path"),
        ending.code,
        ending.reason,
        ending.by,
        seconds,
    )


def _address(client: object) -> str:
    match client:
        case (host, port):
            return f"{host}:{port}"
        case _:
            # A Unix socket has no address, a test may give none.
            return "unknown"
