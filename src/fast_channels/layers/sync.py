"""Layers for code without an event loop: scripts, threads, RQ and Celery workers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from .loops import background_loop
from .registry import channel_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from fast_channels.type_defs import ChannelMessage

    from .base import BaseChannelLayer
    from .position import History, Position

T = TypeVar("T")


class SyncChannelLayer:
    """
    Blocking methods for a layer, which is passed itself or by its alias.

    Threads may share the object, and it may be used after a fork. All objects of a process use
    one background loop, so each layer has one set of connections for any number of threads. The
    methods raise the exceptions of the layer's own methods.
    """

    def __init__(self, layer: BaseChannelLayer | str = "default") -> None:
        self._layer = channel_layers.require(layer) if isinstance(layer, str) else layer

    def send(self, channel: str, message: ChannelMessage) -> None:
        """Send to one channel; returns once the broker has accepted the message."""
        self._run(self._layer.send, channel, message)

    def send_many(self, channel: str, messages: Iterable[ChannelMessage]) -> None:
        """Send several messages to one channel in order; see the layer's `send_many`."""
        self._run(self._layer.send_many, channel, messages)

    def group_send(
        self, group: str, message: ChannelMessage, *, idempotency_key: str | None = None
    ) -> Position | None:
        """Send to every channel in `group`, on every process; see the layer's `group_send`."""
        send = self._layer.group_send
        return self._run(send, group, message, idempotency_key=idempotency_key)

    def group_send_many(self, group: str, messages: Iterable[ChannelMessage]) -> None:
        """Send several messages to `group` in order; see the layer's `group_send_many`."""
        self._run(self._layer.group_send_many, group, messages)

    def history(
        self, group: str, since: Position | str | None = None, limit: int | None = None
    ) -> History:
        """Return the messages of `group` after a position; see the layer's `history`."""
        return self._run(self._layer.history, group, since, limit)

    def group_add(self, group: str, channel: str) -> None:
        """Add a shared channel, or a channel of another process, to `group`."""
        self._run(self._layer.group_add, group, channel)

    def group_discard(self, group: str, channel: str) -> None:
        """Undo group_add."""
        self._run(self._layer.group_discard, group, channel)

    def close(self) -> None:
        """Close the layer's connections; the next call opens them again."""
        self._run(self._layer.close)

    def _run(
        self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **options: Any
    ) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            call = function(*args, **options)
            return asyncio.run_coroutine_threadsafe(call, background_loop()).result()
        # Blocking here would stop the loop that may have to do the work.
        raise RuntimeError(
            f"SyncChannelLayer.{function.__name__} was called on a running event loop; "
            f"there, use `await layer.{function.__name__}(...)`"
        )
