"""ASGI applications around consumers."""

from .base import BaseMiddleware
from .websocket import OriginValidator, WebsocketDenier

__all__ = ["BaseMiddleware", "OriginValidator", "WebsocketDenier"]
