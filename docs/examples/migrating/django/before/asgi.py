"""The application for daphne or uvicorn, and for `manage.py runworker mails`."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
django_application = get_asgi_application()

# These imports need a configured Django.
from consumers import ChatConsumer, FindConsumer, MailConsumer  # noqa: E402

websockets = URLRouter(
    [
        path("ws/chat/<slug:room>/", ChatConsumer.as_asgi()),
        path("ws/find/", FindConsumer.as_asgi()),
    ]
)

application = ProtocolTypeRouter(
    {
        "http": django_application,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(websockets)),
        "channel": ChannelNameRouter({"mails": MailConsumer.as_asgi()}),
    }
)
