"""
Check the claims of fast-channels.md with the installed version.

Print a JSON object with the result of each check; an error is the name of its class.
"""

import asyncio
import contextlib
import datetime as dt
import json
import logging
import sys

from fast_channels.consumer.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, get_channel_layer, register_channel_layer
from fast_channels.layers.redis import RedisPubSubChannelLayer
from fast_channels.testing import WebsocketCommunicator

QUESTIONS = {}


def question(function):
    QUESTIONS[function.__name__] = function
    return function


async def connected(consumer):
    client = WebsocketCommunicator(consumer.as_asgi(), "/")
    assert (await client.connect())[0]
    return client


class Member(AsyncWebsocketConsumer):
    channel_layer_alias = "memory"
    groups = ("room",)

    async def fail(self, message):
        raise ValueError("as it must")

    async def hello(self, message):
        await self.send("hello")


async def told(type_):
    """Send a message to a member and return the frame that its client gets."""
    client = await connected(Member)
    await get_channel_layer("memory").group_send("room", {"type": type_})
    await get_channel_layer("memory").group_send("room", {"type": "hello"})
    event = await client.receive_output()
    return event.get("text", event.get("code"))


@question
async def option_of_pubsub():
    RedisPubSubChannelLayer(expiry=10)


@question
async def initkwargs():
    return list(Member.as_asgi(unknown=1).consumer_initkwargs)


@question
async def groups_without_a_layer():
    class Alone(AsyncWebsocketConsumer):
        groups = ("room",)

    await connected(Alone)


@question
async def unknown_alias():
    class Lost(AsyncWebsocketConsumer):
        channel_layer_alias = "nowhere"

    await connected(Lost)


@question
async def no_layer():
    register_channel_layer("other", object())


@question
async def int_key():
    await get_channel_layer("memory").send("a", {"type": "x", 1: 2})


@question
async def datetime_in_memory():
    await get_channel_layer("memory").send("b", {"type": "x", "at": dt.datetime.now(dt.UTC)})


@question
async def handler_that_fails():
    return await told("fail")


@question
async def type_without_a_handler():
    return await told("unheard.of")


@question
async def type_of_the_library():
    return await told("close")


@question
async def groups_that_were_joined_by_hand():
    class Joining(Member):
        groups = ()

        async def connect(self):
            await self.channel_layer.group_add("by-hand", self.channel_name)
            await self.accept()

    client = await connected(Joining)
    await client.disconnect()
    return list(get_channel_layer("memory").groups)


@question
async def json_that_is_none():
    client = await connected(AsyncJsonWebsocketConsumer)
    await client.send_to(text_data="{")
    return (await client.receive_output())["code"]


@question
async def nan():
    class Odd(AsyncJsonWebsocketConsumer):
        async def connect(self):
            await self.accept()
            await self.send_json(float("nan"))

    return await (await connected(Odd)).receive_from()


@question
async def close_with_send():
    class Farewell(AsyncWebsocketConsumer):
        async def connect(self):
            await self.accept()
            await self.send("bye", close=True)

    client = await connected(Farewell)
    await client.receive_from()
    return (await client.receive_output())["code"]


def answer(ask):
    register_channel_layer("memory", InMemoryChannelLayer())
    try:
        return asyncio.run(ask())
    except Exception as exc:  # noqa: BLE001 - it is the answer
        return type(exc).__name__


if __name__ == "__main__":
    logging.disable()
    with contextlib.redirect_stderr(None):
        answers = {name: answer(ask) for name, ask in QUESTIONS.items()}
    sys.stdout.write(json.dumps(answers))
