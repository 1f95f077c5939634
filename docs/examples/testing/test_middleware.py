"""Middleware by itself: around an application that shows what reaches it."""

from typing import Any

import pytest
from chat import TokenAuth

from fast_channels import AsyncWebsocketConsumer
from fast_channels.middleware import OriginValidator
from fast_channels.testing import WebsocketCommunicator


class Mirror(AsyncWebsocketConsumer):
    """Says what it finds in the scope."""

    async def connect(self) -> None:
        await self.accept()
        await self.send(f"user: {self.scope.get('user')}")


@pytest.mark.parametrize(
    ("query", "user"), [("?token=token-of-ann", "ann"), ("?token=forged", None), ("", None)]
)
async def test_token_becomes_a_user(query: str, user: Any) -> None:
    """A token that nobody has been given is like none."""
    client = WebsocketCommunicator(TokenAuth(Mirror.as_asgi()), f"/{query}")
    await client.connect()
    assert await client.receive_from() == f"user: {user}"
    await client.disconnect()


@pytest.mark.parametrize(
    ("origin", "accepted"), [(b"https://example.com", True), (b"https://evil.test", False)]
)
async def test_page_of_another_site_is_rejected(origin: bytes, accepted: bool) -> None:
    """Headers are pairs of bytes, with the names in lower case, as servers give them."""
    application = OriginValidator(Mirror.as_asgi(), ["example.com"])
    client = WebsocketCommunicator(application, "/", headers=[(b"origin", origin)])
    assert (await client.connect())[0] is accepted
    client.stop(exceptions=False)
