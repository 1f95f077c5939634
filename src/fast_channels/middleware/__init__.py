"""ASGI applications that wrap consumers."""

from .base import BaseMiddleware
from .websocket import OriginValidator, WebsocketDenier

__all__ = ["BaseMiddleware", "OriginValidator", "WebsocketDenier"]
