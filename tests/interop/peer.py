"""
A process that uses channels_redis, and no code of this library.

The process has its own environment, because it needs other versions of the same libraries. Each
line on stdin is a request and each line on stdout an answer. Answers may come late and out of
order, because receiving waits. The process ends with its stdin.
"""

import asyncio
import json
import sys

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from pipe import from_json, to_json

KINDS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


class Peer:
    def __init__(self):
        # Layers by number, in the order in which they were made.
        self.layers = []

    async def answer(self, request):
        reply = {"id": request["id"]}
        try:
            reply["result"] = await self.call(**request["call"])
        except Exception as exc:  # noqa: BLE001 - the test sees any exception
            reply["error"] = type(exc).__name__
            reply["detail"] = str(exc)
        sys.stdout.write(json.dumps(reply, default=to_json) + "\n")
        sys.stdout.flush()

    async def call(self, layer, method, arguments, timeout):
        if method == "make":
            kind, options = arguments
            self.layers.append(KINDS[kind](**options))
            return len(self.layers) - 1
        result = getattr(self.layers[layer], method)(*arguments)
        return await asyncio.wait_for(result, timeout) if asyncio.iscoroutine(result) else result


async def main():
    peer = Peer()
    tasks = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        request = json.loads(line, object_hook=from_json)
        task = asyncio.create_task(peer.answer(request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


if __name__ == "__main__":
    asyncio.run(main())
