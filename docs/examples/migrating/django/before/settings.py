"""A Django project with Channels."""

import os
import tempfile
from pathlib import Path

SECRET_KEY = "not secret, for this is an example"
ALLOWED_HOSTS = ["example.com"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "channels",
]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", Path(tempfile.gettempdir(), "shop.sqlite3")),
    }
}
ROOT_URLCONF = "urls"

ASGI_APPLICATION = "asgi.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            "hosts": [os.environ.get("REDIS_URL", "redis://localhost:6379")],
            "prefix": "shop",
            "capacity": 500,
            "expiry": 30,
        },
    },
}
