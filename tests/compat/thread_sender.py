"""
Sync code that broadcasts with async_to_sync: from the main thread, then from eight at once.

Arguments: the kind of layer, the server's address, the group. Each message has its thread, and
its number in that thread.
"""

import sys
from threading import Thread

from asgiref.sync import async_to_sync

from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer

LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
THREADS, MESSAGES = 8, 20


def main(kind, url, group):
    layer = LAYERS[kind](hosts=[url])

    def send(thread):
        for number in range(MESSAGES):
            message = {"type": "count", "thread": thread, "number": number}
            async_to_sync(layer.group_send)(group, message)

    send("main")
    threads = [Thread(target=send, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
