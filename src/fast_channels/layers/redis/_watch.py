"""One server in the eyes of a layer: what is lost, and when it is back."""

from __future__ import annotations

import logging
import time

from fast_channels.layers.health import Health, State

logger = logging.getLogger("fast_channels.layers.redis")


class Watch:
    """
    However many connections a layer has to a server, an outage is one.

    It begins with the first connection that is lost and ends when all are
    back: one WARNING, one INFO.
    """

    def __init__(self, name: str) -> None:
        # For logs: the address, without a password.
        self.name = name
        self._state: State = "connecting"
        self._since = time.time()
        self._error: str | None = None
        # Connections that are not there and should be.
        self._lost: set[object] = set()

    def health(self) -> Health:
        return Health(self._state, self._since, self._error)

    def lost(self, connection: object, exc: BaseException) -> None:
        """Called when a connection fails, and when making it again does."""
        if self._state == "closed":
            return
        # LayerUnavailable would name the server once more.
        self._error = str(getattr(exc, "reason", exc)) or type(exc).__name__
        self._lost.add(connection)
        if self._state != "degraded":
            logger.warning("lost %s, trying to connect again: %s", self.name, self._error)
            self._enter("degraded")

    def back(self, connection: object) -> None:
        """Called when a connection does its work, or is not needed any more."""
        self._lost.discard(connection)
        if self._lost or self._state in ("ready", "closed"):
            return
        if self._state == "degraded":
            logger.info("%s is back after %.1f s", self.name, time.time() - self._since)
        self._enter("ready")

    def close(self) -> None:
        """Whatever is said afterwards is of no interest: the layer lets go."""
        self._enter("closed")

    def _enter(self, state: State) -> None:
        self._state, self._since = state, time.time()
