"""Realtime for FastAPI, Starlette and any ASGI app: consumers and channel layers."""

__version__ = "2.0.0"
