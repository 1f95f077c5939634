"""The showcase's application with one more route."""

from __future__ import annotations

from starlette.routing import WebSocketRoute

from sandbox.customizing.consumer import MonitoringConsumer
from sandbox.customizing.layers import setup_monitoring
from sandbox.main import app, websockets

__all__ = ["app"]

setup_monitoring()
websockets.routes.append(WebSocketRoute("/monitoring", MonitoringConsumer.as_asgi()))
