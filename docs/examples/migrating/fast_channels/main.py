"""The application around chat.py, for 2.0."""

from chat import ChatConsumer, Language, OrderConsumer
from fastapi import FastAPI
from starlette.routing import Mount, WebSocketRoute

from fast_channels import channel_layers

# A Mount, or another FastAPI(routes=...), replaces the sub-application.
websockets = Mount(
    "/ws",
    routes=[
        WebSocketRoute("/chat", Language(ChatConsumer.as_asgi())),
        WebSocketRoute("/orders", OrderConsumer.as_asgi()),
    ],
)
app = FastAPI(routes=[websockets], lifespan=channel_layers.lifespan)
