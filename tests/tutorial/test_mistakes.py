"""What pages 1 to 3 say about mistakes is what the program says when one is made."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import traceback

import pytest
from starlette.routing import Router, WebSocketRoute

from fast_channels.exceptions import LayerUnavailable, UnknownLayer
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import free_port
from sandbox.layers import LAYERS
from sandbox.tutorial.__main__ import main as tutorial
from sandbox.tutorial.steps import FINISHED, Template, all_steps
from tests.showcase.support import run_module
from tests.tutorial.support import assert_printed, block_with, command, page


@pytest.fixture
def without(tmp_path):
    """A module of the finished application as it is when a step was forgotten."""

    def load(number):
        step = all_steps()[number]
        text = (FINISHED / step.path).read_text()
        assert text.count(step.code) == 1
        path = tmp_path / f"without_{number.replace('.', '_')}.py"
        path.write_text(text.replace(step.code, step.todo))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


async def refuse_to_start(route: WebSocketRoute, registry) -> str:
    """What a server prints when the lifespan of an application with this route fails."""
    with pytest.raises((LayerUnavailable, UnknownLayer)) as raised:
        async with registry.lifespan(Router(routes=[route])):
            pass
    return printed(raised.value)


def room_route(module) -> WebSocketRoute:
    return WebSocketRoute("/room/{room_name}", module.RoomChatConsumer.as_asgi())


async def test_room_without_its_layer_is_told(without, registry):
    """The application does not start."""
    registry.register("memory", LAYERS["memory"](""))
    output = await refuse_to_start(room_route(without("3.10")), registry)
    assert_printed(block_with(page(3), "UnknownLayer", "text"), output)
