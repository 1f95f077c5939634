"""The application for uvicorn: `uvicorn asgi:application`."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import Mount, WebSocketRoute

from fast_channels import (
    ChannelNameRouter,
    OriginValidator,
    RedisChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
    register_channel_layer,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django_application = get_asgi_application()

# These imports need a configured Django.
from auth import DjangoUser  # noqa: E402
from consumers import ChatConsumer, FindConsumer, MailConsumer  # noqa: E402

hosts = [os.environ.get("REDIS_URL", "redis://localhost:6379")]
register_channel_layer("default", RedisChannelLayer(hosts, prefix="shop", capacity=500, expiry=30))
# Work is acknowledged, retried, and never expires.
register_channel_layer("work", RedisStreamsChannelLayer(hosts, prefix="shop-work", capacity=500))


class Slug(StringConvertor):
    """Django's <slug:...>. A slug is also allowed in group names."""

    regex = "[-a-zA-Z0-9_]+"


register_url_convertor("slug", Slug())


def websocket(path, consumer):
    guarded = OriginValidator(DjangoUser(consumer.as_asgi()), settings.ALLOWED_HOSTS)
    return WebSocketRoute(path, guarded)


async def reject(socket):
    await socket.close()


application = Starlette(
    routes=[
        websocket("/ws/chat/{room:slug}/", ChatConsumer),
        websocket("/ws/find/", FindConsumer),
        # Django raises for a WebSocket, and the Mount would pass it every other WebSocket.
        WebSocketRoute("/{path:path}", reject),
        Mount("/", django_application),
    ],
    lifespan=channel_layers.lifespan,
)

router = ChannelNameRouter({"mails": MailConsumer.as_asgi()})
