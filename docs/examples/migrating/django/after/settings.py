"""The project without Channels: CHANNEL_LAYERS and ASGI_APPLICATION have moved to asgi.py."""

import os
import tempfile
from pathlib import Path

SECRET_KEY = "not secret, for this is an example"
ALLOWED_HOSTS = ["example.com"]
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", Path(tempfile.gettempdir(), "shop.sqlite3")),
    }
}
ROOT_URLCONF = "urls"
