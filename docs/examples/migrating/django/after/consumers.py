"""The consumers after the move: one almost unchanged, two made asynchronous."""

from database import database_sync_to_async
from django.contrib.auth.models import User

from fast_channels import AsyncConsumer, AsyncJsonWebsocketConsumer, channel_layers


class ChatConsumer(AsyncJsonWebsocketConsumer):
    channel_layer_alias = "default"

    async def connect(self):
        self.user = self.scope["user"]
        if not self.user.is_authenticated:
            await self.close()
            return
        self.group = "chat_" + self.scope["path_params"]["room"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"members": await self.count_users()})

    async def receive_json(self, content):
        message = {"type": "chat.message", "who": self.user.username, "text": content["text"]}
        await self.channel_layer.group_send(self.group, message)
        if content["text"].startswith("mail:"):
            mail = {"type": "mail.send", "text": content["text"]}
            await channel_layers["work"].send("mails", mail)

    async def chat_message(self, event):
        await self.send_json({"who": event["who"], "text": event["text"]})

    @database_sync_to_async
    def count_users(self):
        return User.objects.count()


class FindConsumer(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        await self.send_json({"found": await self.is_user(content["find"])})

    @database_sync_to_async
    def is_user(self, name):
        return User.objects.filter(username=name).exists()


class MailConsumer(AsyncConsumer):
    async def mail_send(self, message):
        text = f"sent {message['text']}"
        event = {"type": "chat.message", "who": "mailer", "text": text}
        await channel_layers["default"].group_send("chat_lobby", event)
