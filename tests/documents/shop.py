"""
Drive the shop of docs/migrating/django-channels.md, before or after the migration.

    python shop.py before|after check    have the conversation that both must pass
    python shop.py before|after talk     be a client that sends the lines of stdin and prints frames

The environment needs the imports of that side. REDIS_URL is the address of a server, DATABASE
the path of a database.
"""

import asyncio
import contextlib
import importlib
import sys
import types
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples" / "migrating" / "django"

side, mode = sys.argv[1:]
sys.path[:0] = [str(EXAMPLES / side), str(EXAMPLES)]

# This import sets up Django, which the other imports need.
asgi = importlib.import_module("asgi")
conversation = importlib.import_module("conversation")


def cookie():
    """Create the only user, start a session, and return its cookie."""
    models = importlib.import_module("django.contrib.auth.models")
    content = importlib.import_module("django.contrib.contenttypes.models")
    # Like `migrate`, but faster, because the database is new.
    with importlib.import_module("django.db").connection.schema_editor() as editor:
        for model in (content.ContentType, models.Permission, models.Group, models.User):
            editor.create_model(model)
    browser = importlib.import_module("django.test").Client()
    browser.force_login(models.User.objects.create_user("ann"))
    return f"sessionid={browser.cookies['sessionid'].value}".encode()


@contextlib.asynccontextmanager
async def before():
    """Return the application, its communicators, and a request for the view `announce`."""
    # channels.testing imports daphne for a test case that starts a server, which is unused here.
    sys.modules["daphne"] = types.ModuleType("daphne")
    sys.modules["daphne.testing"] = types.SimpleNamespace(DaphneProcess=None)
    testing = importlib.import_module("channels.testing")
    layers = importlib.import_module("channels.layers")
    worker = importlib.import_module("channels.worker").Worker(
        asgi.application, ["mails"], layers.get_channel_layer()
    )
    working = asyncio.create_task(worker.handle())
    yield (
        testing.WebsocketCommunicator,
        testing.HttpCommunicator(asgi.application, "GET", "/announce/?text=sale"),
    )
    working.cancel()
    await asyncio.wait([working])


@contextlib.asynccontextmanager
async def after():
    testing = importlib.import_module("fast_channels.testing")
    layers = importlib.import_module("fast_channels").channel_layers
    async with layers.lifespan(asgi.application):
        worker = importlib.import_module("fast_channels.worker").Worker(
            asgi.router, ["mails"], layer=layers["work"]
        )
        working = asyncio.create_task(worker.run())
        yield (
            testing.WebsocketCommunicator,
            testing.HttpCommunicator(asgi.application, "/announce/?text=sale"),
        )
        worker.stop()
        await working


async def check(cookie):
    async with {"before": before, "after": after}[side]() as (communicator, request):
        client = await conversation.check(asgi.application, communicator, cookie)
        await conversation.check_announcement(client, request)
        await conversation.check_mail(client)
        await client.disconnect(timeout=15)
        if side == "after":
            # On the other side, the communicator raises ValueError.
            nowhere = communicator(asgi.application, "/ws/nowhere/")
            assert await nowhere.connect(timeout=15) == (False, 1000)
    say("passed")


async def talk(cookie):
    headers = [(b"origin", b"https://example.com"), (b"cookie", cookie)]
    async with {"before": before, "after": after}[side]() as (communicator, _):
        client = communicator(asgi.application, "/ws/chat/lobby/", headers)
        assert (await client.connect(timeout=15))[0]
        receiving = asyncio.create_task(show(client))
        while line := await asyncio.to_thread(sys.stdin.readline):
            await client.send_json_to({"text": line.strip()})
        receiving.cancel()
        await asyncio.wait([receiving])
        await client.disconnect(timeout=15)


async def show(client):
    while True:
        say(await client.receive_json_from(timeout=60))


def say(what):
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run({"check": check, "talk": talk}[mode](cookie()))
