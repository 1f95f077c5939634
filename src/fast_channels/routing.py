"""Routes shared channels to the consumers that handle their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fast_channels.consumer.base import ConsumerApplication
from fast_channels.exceptions import InvalidRouter, UnknownChannel
from fast_channels.layers import names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_channels.consumer.base import AsyncConsumer
    from fast_channels.type_defs import ASGIReceiveCallable, ASGISendCallable, ChannelScope


class ChannelNameRouter:
    """
    Maps names of channels to consumers: `{"mails": MailConsumer.as_asgi()}`.

    Raises InvalidRouter for an application that cannot handle messages of channels, such as
    a WebSocket consumer, and InvalidName for a name that is not allowed.
    """

    def __init__(self, application_mapping: Mapping[str, ConsumerApplication[Any]]) -> None:
        for channel, application in application_mapping.items():
            names.check("channel", channel)
            if not isinstance(application, ConsumerApplication) or application.scope_type:
                raise InvalidRouter(channel, application)
        self.application_mapping = dict(application_mapping)

    def find(self, channel: str) -> ConsumerApplication[AsyncConsumer]:
        """Return the application for a channel. Raises UnknownChannel."""
        application = self.application_mapping.get(channel)
        if application is None:
            raise UnknownChannel(channel, list(self.application_mapping))
        return application

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve a scope `{"type": "channel", "channel": ...}` as an ASGI application."""
        await self.find(scope["channel"])(scope, receive, send)
