"""What uvicorn serves: `uvicorn asgi:application`."""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import Mount, WebSocketRoute

from fast_channels import channel_layers, register_channel_layer
from fast_channels.layers import RedisChannelLayer, RedisStreamsChannelLayer
from fast_channels.middleware import OriginValidator
from fast_channels.routing import ChannelNameRouter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django_application = get_asgi_application()

# What follows needs Django to be set up.
from auth import DjangoUser  # noqa: E402
from consumers import ChatConsumer, FindConsumer, MailConsumer  # noqa: E402

hosts = [os.environ.get("REDIS_URL", "redis://localhost:6379")]
register_channel_layer("default", RedisChannelLayer(hosts, prefix="shop", capacity=500, expiry=30))
# For what must be done: acknowledged, tried again, and never expired.
register_channel_layer("work", RedisStreamsChannelLayer(hosts, prefix="shop-work", capacity=500))


class Slug(StringConvertor):
    """What <slug:...> is in Django's paths; such names may be part of a group's name."""

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
        # Django raises for a WebSocket, and a Mount would give it all that have no route.
        WebSocketRoute("/{path:path}", reject),
        Mount("/", django_application),
    ],
    lifespan=channel_layers.lifespan,
)

router = ChannelNameRouter({"mails": MailConsumer.as_asgi()})
