"""An HTTP endpoint changes an order, and every client that watches the order sees the change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import (
    AsyncJsonWebsocketConsumer,
    InMemoryChannelLayer,
    LayerUnavailable,
    SyncChannelLayer,
    channel_layers,
)

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

logger = logging.getLogger("orders")

channel_layers.register("orders", InMemoryChannelLayer())

# Stands in for a database.
STATUS: dict[int, str] = {}


class OrderConsumer(AsyncJsonWebsocketConsumer):
    """Sends the status of one order, at first and after every change."""

    channel_layer_alias = "orders"

    async def connect(self) -> None:
        order = self.scope["path_params"]["order"]
        # Join before reading, so that no change falls between the two.
        await self.join_group(f"order.{order}")
        await self.accept()
        await self.send_json({"status": STATUS.get(order, "unknown")})

    async def order_changed(self, message: ChannelMessage) -> None:
        await self.send_json({"status": message["status"]})


app = FastAPI(
    routes=[WebSocketRoute("/ws/orders/{order:int}", OrderConsumer.as_asgi())],
    lifespan=channel_layers.lifespan,
)


@app.put("/orders/{order}")
async def change(order: int, status: str) -> dict[str, str]:
    STATUS[order] = status
    try:
        await channel_layers["orders"].group_send(f"order.{order}", changed(status))
    except LayerUnavailable as error:
        # The order is changed. After an error, the caller would change it again.
        logger.warning("clients were not told that order %d is %s: %s", order, status, error)
    return {"status": status}


@app.delete("/orders/{order}")
def cancel(order: int) -> dict[str, str]:
    """Cancel an order. FastAPI runs a plain function in a thread, which cannot await."""
    STATUS[order] = "cancelled"
    SyncChannelLayer("orders").group_send(f"order.{order}", changed("cancelled"))
    return {"status": "cancelled"}


def changed(status: str) -> dict[str, str]:
    return {"type": "order.changed", "status": status}
