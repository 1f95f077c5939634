"""The command `fast-channels`, also as `python -m fast_channels`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import fast_channels
from fast_channels.exceptions import FastChannelsError, LayerUnavailable, UnknownLayer
from fast_channels.layers.registry import channel_layers
from fast_channels.routing import ChannelNameRouter
from fast_channels.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

# Exit codes if the broker does not answer, and if the command or the application is wrong.
UNAVAILABLE, MISCONFIGURED = 1, 2


class Misconfigured(Exception):
    """An error with a sentence for the user of the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    # As with `python -m`: users type the command in the folder of their application.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - as text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_work(options))
    except LayerUnavailable as error:
        print(f"fast-channels: {error}", file=sys.stderr)  # noqa: T201
        return UNAVAILABLE
    except (Misconfigured, FastChannelsError) as error:
        print(f"fast-channels: {error}", file=sys.stderr)  # noqa: T201
        return MISCONFIGURED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fast-channels", description=fast_channels.__doc__)
    version = f"fast-channels {fast_channels.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="command")
    worker = commands.add_parser(
        "worker",
        help="handle the messages of shared channels",
        description="Take messages from shared channels and let the consumers of a router "
        "handle them. SIGTERM or Ctrl+C: finish the messages in progress, and stop.",
    )
    worker.add_argument("router", help="a ChannelNameRouter, as module:name")
    worker.add_argument("channels", nargs="+", metavar="channel", help="a channel to take from")
    worker.add_argument("--layer", default="default", help="alias of the layer (default)")
    worker.add_argument(
        "--concurrency", type=_positive, default=10, help="messages at a time, per channel (10)"
    )
    worker.add_argument("--setup", help="a function that registers the layers, as module:name")
    worker.add_argument(
        "--drain-timeout", type=float, default=8.0, help="seconds to finish messages (8)"
    )
    worker.add_argument(
        "--report-interval", type=float, default=60.0, help="seconds between reports (60)"
    )
    worker.add_argument(
        "--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="(INFO)"
    )
    return parser


async def _work(options: argparse.Namespace) -> None:
    router = _found(options.router)
    if not isinstance(router, ChannelNameRouter):
        raise Misconfigured(
            f"{options.router} is a {type(router).__name__}; name a ChannelNameRouter"
        )
    if options.setup is not None:
        await _set_up(options.setup)
    layer = channel_layers.get(options.layer)
    if layer is None:
        unknown = UnknownLayer(options.layer, channel_layers.list_aliases(), options.router)
        raise Misconfigured(f"{unknown}, there or in a function that --setup names")
    try:
        worker = Worker(
            router,
            options.channels,
            layer=layer,
            concurrency=options.concurrency,
            drain_timeout=options.drain_timeout,
            report_interval=options.report_interval,
        )
    except ValueError as error:
        raise Misconfigured(str(error)) from error
    _stop_on_signals(worker)
    await worker.run()


async def _set_up(path: str) -> None:
    function = _found(path)
    if not callable(function):
        raise Misconfigured(f"{path} is a {type(function).__name__}; name a function")
    result = function()
    if inspect.isawaitable(result):
        await result


def _found(path: str) -> Any:
    """Return the object that "module:name" names. Raises Misconfigured."""
    module_name, colon, names = path.partition(":")
    if not (module_name and colon and names):
        raise Misconfigured(f"{path!r} names nothing; write module:name, such as myapp.work:router")
    try:
        thing: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise Misconfigured(f"cannot import {module_name!r}: {error}") from error
    for name in names.split("."):
        try:
            thing = getattr(thing, name)
        except AttributeError as error:
            raise Misconfigured(f"{module_name!r} has no {names!r}: {error}") from error
    return thing


def _stop_on_signals(worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    def stop(_number: int, _frame: object) -> None:
        # The signal may come after the loop has closed, right before the process ends.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(worker.stop)

    for number in (signal.SIGTERM, signal.SIGINT):
        # Not loop.add_signal_handler, which Windows does not have.
        signal.signal(number, stop)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number
