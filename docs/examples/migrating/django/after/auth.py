"""A replacement of AuthMiddlewareStack: puts the user of the session cookie into the scope."""

from __future__ import annotations

from http.cookies import SimpleCookie
from importlib import import_module
from typing import TYPE_CHECKING, Any

from database import database_sync_to_async
from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest

from fast_channels.middleware import BaseMiddleware

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

    from fast_channels.type_defs import ASGIReceiveCallable, ASGISendCallable, ChannelScope


class DjangoUser(BaseMiddleware):
    """Sets scope["user"] like request.user in a view: an AnonymousUser without a log-in."""

    async def __call__(
        self, scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> Any:
        headers = dict(scope["headers"])
        cookies = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1"))
        session = cookies.get(settings.SESSION_COOKIE_NAME)
        user = await user_of(session.value if session else None)
        return await super().__call__({**scope, "user": user}, receive, send)


@database_sync_to_async
def user_of(session_key: str | None) -> AbstractBaseUser | AnonymousUser:
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    # Checks the session as for a request: a changed password ends it.
    return get_user(request)
