"""
Code that readers of the original tutorial's last page type, block by block.

The names, files and message shapes of these blocks are an interface of the showcase.
"""

from __future__ import annotations

# In a shell.
MAKE_FOLDER = """\
# Create the showcase module directory
mkdir -p sandbox/apps/showcase

# Create __init__.py file to make it a Python module
touch sandbox/apps/showcase/__init__.py
"""

# Files that exist afterwards.
TREE = (
    "docker-compose.yml",
    "sandbox/__init__.py",
    "sandbox/main.py",
    "sandbox/layers.py",
    "sandbox/tasks.py",
    "sandbox/worker.py",
    "sandbox/start_dev.py",
    "sandbox/external_sender.py",
    "sandbox/apps/__init__.py",
    "sandbox/apps/background_jobs/__init__.py",
    "sandbox/apps/background_jobs/consumer.py",
    "sandbox/apps/room_chat/__init__.py",
    "sandbox/apps/room_chat/consumer.py",
    "sandbox/apps/showcase/__init__.py",
    "sandbox/apps/showcase/consumer.py",
    "sandbox/apps/system_chat/__init__.py",
    "sandbox/apps/system_chat/consumer.py",
    "sandbox/static/css/style.css",
    "sandbox/static/js/main.js",
)

# Files that the page includes as a whole, and where readers save them.
INCLUDED = {
    "sandbox/tutorial/apps/showcase/consumer.py": "sandbox/apps/showcase/consumer.py",
    "sandbox/external_sender.py": "sandbox/external_sender.py",
}

# At the end of sandbox/apps/showcase/consumer.py.
ANALYTICS_CONSUMER = '''\
class AnalyticsConsumer(AsyncWebsocketConsumer):
    """
    Consumer for analytics events with reliable delivery.
    """

    channel_layer_alias = "analytics"
    groups = ["analytics"]

    async def connect(self):
        await self.accept()
        # Send connection confirmation
        await self.channel_layer.group_send(
            "analytics",
            {
                "type": "analytics_message",
                "message": "📊 Analytics tracking started!"
            },
        )

    async def receive(self, text_data=None, bytes_data=None, **kwargs):
        # Process analytics event
        await self.channel_layer.group_send(
            "analytics",
            {
                "type": "analytics_message",
                "message": f"📊 Analytics: {text_data}"
            },
        )

    async def disconnect(self, close_code):
        # Optional: Send disconnect analytics
        pass

    async def analytics_message(self, event):
        """Called when an analytics event is sent to the group."""
        await self.send(event["message"])
'''

# In sandbox/main.py, where readers find these lines as comments.
UNCOMMENTED = """\
from sandbox.apps.showcase.consumer import (
    AnalyticsConsumer,
    ChatConsumer,
    NotificationConsumer,
    ReliableChatConsumer,
)
ws_router.add_websocket_route("/chat", ChatConsumer.as_asgi())
ws_router.add_websocket_route("/reliable", ReliableChatConsumer.as_asgi())
ws_router.add_websocket_route("/notifications", NotificationConsumer.as_asgi())
ws_router.add_websocket_route("/analytics", AnalyticsConsumer.as_asgi())
"""

START = "python sandbox/start_dev.py"
SEND = "python -m sandbox.external_sender"

# In the table of sandbox/layers.py.
MONITORING_LAYER = """\
# In sandbox/layers.py, add new layer configurations:
"monitoring": {
    "layer": RedisPubSubChannelLayer(hosts=[redis_url], prefix="monitor"),
    "description": "Real-time monitoring layer",
},
"""

CUSTOM_CONSUMER = """\
class CustomJsonConsumer(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content, **kwargs):
        # Handle structured data
        message_type = content.get("type")
        payload = content.get("payload")

        if message_type == "user_action":
            await self.handle_user_action(payload)
        elif message_type == "system_event":
            await self.handle_system_event(payload)
"""

MONITORING_ALERT = """\
# Create monitoring script
async def send_monitoring_alert():
    layer = get_channel_layer("monitoring")
    await layer.group_send(
        "alerts",
        {
            "type": "alert_message",
            "data": {
                "severity": "high",
                "message": "CPU usage above 90%",
                "timestamp": time.time()
            }
        }
    )
"""

BROADCAST = '''\
async def broadcast_to_all_layers(message):
    """Send message to multiple layer types simultaneously."""
    layers = ["chat", "notifications", "analytics"]

    for layer_name in layers:
        layer = get_channel_layer(layer_name)
        if layer:
            await layer.group_send(
                f"{layer_name}_group",
                {"type": f"{layer_name}_message", "message": message}
            )
'''

# What the original external_sender.py sends: the layer, the group, the message.
ORIGINAL_SENDER = (
    ("chat", "chat_room", {"type": "chat_message", "message": "welcome"}),
    ("queue", "reliable_chat", {"type": "reliable_chat_message", "message": "maintenance"}),
    ("notifications", "notifications", {"type": "notification_message", "message": "busy"}),
    ("analytics", "analytics", {"type": "analytics_message", "message": "📊 Event: page_view:/x"}),
)
