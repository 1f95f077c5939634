"""Clients of chat.py get the same frames with both versions: `python check_chat.py`."""

import asyncio

import chat

from fast_channels.layers import get_channel_layer
from fast_channels.testing import WebsocketCommunicator

PATIENCE = 15


async def check_chat() -> None:
    application = chat.Language(chat.ChatConsumer.as_asgi())
    one = WebsocketCommunicator(application, "/ws/chat", headers=[(b"accept-language", b"de")])
    two = WebsocketCommunicator(application, "/ws/chat")
    assert await one.connect(PATIENCE) == (True, None)
    assert await one.receive_from(PATIENCE) == "joined (de)"
    assert await two.connect(PATIENCE) == (True, None)
    for client in (one, two):
        assert await client.receive_from(PATIENCE) == "joined (en)"
    await one.send_to(text_data="hello")
    for client in (one, two):
        assert await client.receive_from(PATIENCE) == "message: hello"
    await one.send_to(text_data="quit")
    assert await one.receive_from(PATIENCE) == "bye"
    assert (await one.receive_output(PATIENCE))["code"] == 4001
    await one.disconnect(4001, PATIENCE)
    assert await two.receive_from(PATIENCE) == "left (4001)"
    await two.disconnect(timeout=PATIENCE)


async def check_orders() -> None:
    client = WebsocketCommunicator(chat.OrderConsumer.as_asgi(), "/ws/orders")
    assert await client.connect(PATIENCE) == (True, None)
    await client.send_json_to({"order": 1})
    assert await client.receive_json_from(PATIENCE) == {"order": 1}
    await asyncio.to_thread(chat.place_order, 2)
    assert await client.receive_json_from(PATIENCE) == {"order": 2}
    await client.disconnect(timeout=PATIENCE)
    await get_channel_layer("orders").close_pools()


async def check() -> None:
    await check_chat()
    await check_orders()


if __name__ == "__main__":
    asyncio.run(check())
    print("passed")
