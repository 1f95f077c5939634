"""The showcase's application with one more route."""

from __future__ import annotations

from sandbox.customizing.consumer import MonitoringConsumer
from sandbox.customizing.layers import setup_monitoring
from sandbox.main import app, ws_router

__all__ = ["app"]

setup_monitoring()
ws_router.add_websocket_route("/monitoring", MonitoringConsumer.as_asgi())
