"""The application around chat.py, as it is served today."""

from chat import ChatConsumer, Language, OrderConsumer
from fastapi import FastAPI
from starlette.routing import Mount, WebSocketRoute

from fast_channels import channel_layers

# A Mount, or another FastAPI(routes=...), in the place of the sub-application.
websockets = Mount(
    "/ws",
    routes=[
        WebSocketRoute("/chat", Language(ChatConsumer.as_asgi())),
        WebSocketRoute("/orders", OrderConsumer.as_asgi()),
    ],
)
app = FastAPI(routes=[websockets], lifespan=channel_layers.lifespan)
