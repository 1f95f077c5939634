"""Test ASGI applications without a server, and check your own backends."""

from .application import ApplicationCommunicator
from .http import HttpCommunicator
from .resuming import ResumingCommunicator
from .websocket import WebsocketCommunicator

__all__ = [
    "ApplicationCommunicator",
    "HttpCommunicator",
    "ResumingCommunicator",
    "WebsocketCommunicator",
]
