"""
A process that speaks through channels_redis, and through nothing of ours.

Runs in an environment of its own, since it brings other versions of the same
libraries. Each line on stdin is a request, each line on stdout an answer; an
answer may come late and out of order, because receiving waits. Ends when stdin
does.
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
        # Layers by the number they were given when they were made.
        self.layers = []

    async def answer(self, request):
        reply = {"id": request["id"]}
        try:
            reply["result"] = await self.call(**request["call"])
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test is to see it
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
