"""The pages of the project. Synchronous views send to sockets with async_to_sync."""

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpRequest, HttpResponse
from django.urls import path


def announce(request: HttpRequest) -> HttpResponse:
    layer = get_channel_layer()
    message = {"type": "chat.message", "who": "shop", "text": request.GET["text"]}
    async_to_sync(layer.group_send)("chat_lobby", message)
    return HttpResponse("announced")


urlpatterns = [path("announce/", announce)]
