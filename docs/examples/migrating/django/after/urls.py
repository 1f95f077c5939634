"""The pages of the project. Views are synchronous, and reach the sockets with the facade."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from fast_channels.layers.sync import SyncChannelLayer


def announce(request: HttpRequest) -> HttpResponse:
    layer = SyncChannelLayer()
    message = {"type": "chat.message", "who": "shop", "text": request.GET["text"]}
    layer.group_send("chat_lobby", message)
    return HttpResponse("announced")


urlpatterns = [path("announce/", announce)]
