"""Middleware alone, around a consumer that shows its scope."""

from typing import Any

import pytest
from chat import TokenAuth

from fast_channels import AsyncWebsocketConsumer, OriginValidator
from fast_channels.testing import WebsocketCommunicator


class Mirror(AsyncWebsocketConsumer):
    """A consumer that sends the user in its scope."""

    async def connect(self) -> None:
        await self.accept()
        await self.send(f"user: {self.scope.get('user')}")


@pytest.mark.parametrize(
    ("query", "user"), [("?token=token-of-ann", "ann"), ("?token=forged", None), ("", None)]
)
async def test_token_becomes_a_user(query: str, user: Any) -> None:
    """An unknown token counts as no token."""
    client = WebsocketCommunicator(TokenAuth(Mirror.as_asgi()), f"/{query}")
    await client.connect()
    assert await client.receive_from() == f"user: {user}"
    await client.disconnect()


@pytest.mark.parametrize(
    ("origin", "accepted"), [(b"https://example.com", True), (b"https://evil.test", False)]
)
async def test_page_of_another_site_is_rejected(origin: bytes, accepted: bool) -> None:
    """Headers are pairs of bytes with lower-case names, as servers send them."""
    application = OriginValidator(Mirror.as_asgi(), ["example.com"])
    client = WebsocketCommunicator(application, "/", headers=[(b"origin", origin)])
    assert (await client.connect())[0] is accepted
    client.stop(exceptions=False)
