"""A chat with clients that miss nothing, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import WebSocketRoute

from fast_channels import AsyncJsonWebsocketConsumer, InMemoryChannelLayer, channel_layers

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

HERE = Path(__file__).parent
CLIENT = HERE.parents[3] / "clients" / "js"

channel_layers.register("chat", InMemoryChannelLayer(history_size=1000))


class ChatConsumer(AsyncJsonWebsocketConsumer):
    """Sends every line, `{"text": "..."}`, to all clients."""

    channel_layer_alias = "chat"
    groups = ["lobby"]
    resumable = True

    async def receive_json(self, content: Any, **_: Any) -> None:
        match content:
            case {"text": str(text)}:
                message = {"type": "chat.message", "text": text}
                await self.channel_layer.group_send("lobby", message)

    async def chat_message(self, message: ChannelMessage) -> None:
        await self.send_json({"text": message["text"]})


app = FastAPI(
    routes=[WebSocketRoute("/ws/chat", ChatConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)
app.mount("/fast-channels", StaticFiles(directory=CLIENT))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@app.get("/chat.js", include_in_schema=False)
async def script() -> FileResponse:
    return FileResponse(HERE / "chat.js")
