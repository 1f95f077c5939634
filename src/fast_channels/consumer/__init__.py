"""One object per connection."""

from .base import AsyncConsumer
from .http import AsyncHttpConsumer
from .limits import RateLimit
from .websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer

__all__ = [
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "RateLimit",
]
