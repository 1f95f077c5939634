"""A script, a cron job, or a task of Celery or RQ, that sends to a room."""

from layer import make_layer

from fast_channels import SyncChannelLayer

layer = SyncChannelLayer(make_layer())
layer.group_send("room.7", {"type": "room.message", "text": "the report is ready"})
