"""Your application."""

from fastapi import FastAPI
from rooms import RoomConsumer
from starlette.routing import WebSocketRoute

from fast_channels import InMemoryChannelLayer, channel_layers

channel_layers.register("rooms", InMemoryChannelLayer())

app = FastAPI(
    routes=[WebSocketRoute("/ws/rooms/{room:int}", RoomConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)


# start of endpoint
@app.post("/rooms/{room}/messages", status_code=204)
async def post_message(room: int, text: str) -> None:
    message = {"type": "room.message", "text": text}
    await channel_layers["rooms"].group_send(f"room.{room}", message)


# end of endpoint
