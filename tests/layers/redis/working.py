"""A layer that does nothing but work: for tests of that alone."""

from __future__ import annotations

from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.options import WorkOptions
from fast_channels.layers.redis._hosts import decode_hosts
from fast_channels.layers.redis._scripts import Script
from fast_channels.layers.redis._server import Server, health_of, ping_all
from fast_channels.layers.redis._work import RedisWork

FLUSH = Script("flush")


class WorkBroker(RedisWork):
    def __init__(self, url, prefix, reader, options, **more):
        (host,) = decode_hosts([url])
        self.server = Server(host, more.pop("send_timeout", 5.0))
        self.prefix = prefix
        super().__init__(self.server, prefix, reader, options, **more)

    async def start(self, deliver, interrupted):
        await ping_all([self.server])

    async def stop(self):
        self.server.watch.close()
        await super().stop()
        await self.server.close()

    def health(self):
        return health_of([self.server])

    async def publish(self, topic, payload):
        return 0

    async def subscribe(self, topic): ...

    async def unsubscribe(self, topic): ...

    async def add_member(self, topic, name): ...

    async def remove_member(self, topic, name): ...

    async def flush(self):
        await self.server.control.run(FLUSH, [], [self.prefix + "*"])


class WorkLayer(BaseChannelLayer):
    def __init__(
        self,
        url,
        *,
        visibility_timeout=30.0,
        max_deliveries=5,
        retry_backoff=(1.0, 60.0),
        check_interval=5.0,
        send_timeout=5.0,
        expiry=None,
        **options,
    ):
        super().__init__(**options)
        work = WorkOptions(visibility_timeout, max_deliveries, retry_backoff)
        self._make = lambda: WorkBroker(
            url,
            "work",
            self.process,
            work,
            heartbeat_interval=5.0,
            check_interval=check_interval,
            send_timeout=send_timeout,
            expiry=expiry,
        )

    def _make_broker(self):
        return self._make()
