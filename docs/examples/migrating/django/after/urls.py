"""The pages of the project. Synchronous views send to sockets with SyncChannelLayer."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from fast_channels import SyncChannelLayer


def announce(request: HttpRequest) -> HttpResponse:
    layer = SyncChannelLayer()
    message = {"type": "chat.message", "who": "shop", "text": request.GET["text"]}
    layer.group_send("chat_lobby", message)
    return HttpResponse("announced")


urlpatterns = [path("announce/", announce)]
