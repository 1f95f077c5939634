"""Consumers of Django Channels: one asynchronous, two synchronous."""

from asgiref.sync import async_to_sync
from channels.consumer import SyncConsumer
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from django.contrib.auth.models import User


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.user = self.scope["user"]
        if not self.user.is_authenticated:
            await self.close()
            return
        self.group = "chat_" + self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"members": await self.count_users()})

    async def disconnect(self, code):
        if self.user.is_authenticated:
            await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content):
        message = {"type": "chat.message", "who": self.user.username, "text": content["text"]}
        await self.channel_layer.group_send(self.group, message)
        if content["text"].startswith("mail:"):
            await self.channel_layer.send("mails", {"type": "mail.send", "text": content["text"]})

    async def chat_message(self, event):
        await self.send_json({"who": event["who"], "text": event["text"]})

    @database_sync_to_async
    def count_users(self):
        return User.objects.count()


class FindConsumer(JsonWebsocketConsumer):
    def receive_json(self, content):
        self.send_json({"found": User.objects.filter(username=content["find"]).exists()})


class MailConsumer(SyncConsumer):
    def mail_send(self, message):
        text = f"sent {message['text']}"
        event = {"type": "chat.message", "who": "mailer", "text": text}
        async_to_sync(self.channel_layer.group_send)("chat_lobby", event)
