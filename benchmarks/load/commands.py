"""Commands to a process: a line of JSON in, a line of JSON out."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    Command = Callable[..., Awaitable[dict[str, Any] | None]]


async def obey(commands: Mapping[str, Command]) -> None:
    """
    Carry out commands one after the other, until standard input ends.

    Standard input ends with the process of the suite, even if that is killed, so no process
    outlives the suite.
    """
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    answer({"ready": True})
    while line := await reader.readline():
        arguments = json.loads(line)
        command = commands[arguments.pop("do")]
        try:
            answer(await command(**arguments) or {})
        except Exception as exc:  # noqa: BLE001 - the suite gets the error
            traceback.print_exc()
            answer({"error": f"{type(exc).__name__}: {exc}"})


def answer(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop, like the servers."""
    uvloop.run(main)
