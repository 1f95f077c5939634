"""OriginValidator allows and rejects connections by their origin."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.middleware import OriginValidator
from fast_channels.testing import ApplicationCommunicator, WebsocketCommunicator


async def let_through(allowed, *origins: bytes, name=b"origin") -> bool:
    """Return whether a connection with these Origin headers reaches the application."""
    application = OriginValidator(AsyncWebsocketConsumer.as_asgi(), allowed)
    headers = [(b"host", b"example.com"), *((name, origin) for origin in origins)]
    client = WebsocketCommunicator(application, "/", headers=headers)
    accepted, code = await client.connect()
    if accepted:
        await client.disconnect()
    else:
        assert code == 1000
        await client.wait()
    return accepted


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "origin"),
        [
            ("*", b"http://anything.example"),
            # a host, with any scheme and port
            ("example.com", b"http://example.com"),
            ("example.com", b"https://example.com"),
            ("example.com", b"https://example.com:8443"),
            # a host with its subdomains
            (".example.com", b"http://example.com"),
            (".example.com", b"http://www.example.com"),
            (".example.com", b"http://a.b.example.com:81"),
            # with a port
            ("example.com:8000", b"http://example.com:8000"),
            ("example.com:80", b"http://example.com"),
            ("example.com:443", b"https://example.com"),
            (".example.com:8000", b"http://www.example.com:8000"),
            # with a scheme; its default port may be left out on either side
            ("http://example.com", b"http://example.com"),
            ("http://example.com", b"http://example.com:80"),
            ("http://example.com:80", b"http://example.com"),
            ("https://example.com", b"https://example.com:443"),
            ("https://example.com:443", b"https://example.com"),
            ("https://.example.com:8443", b"https://www.example.com:8443"),
            ("https://.example.com:8443", b"https://example.com:8443"),
            ("//example.com", b"https://example.com"),
            # upper case on either side
            ("EXAMPLE.com", b"http://example.COM"),
            ("HTTP://Example.com", b"HTTP://EXAMPLE.com"),
            # addresses
            ("127.0.0.1", b"http://127.0.0.1:3000"),
            ("[::1]", b"http://[::1]:3000"),
            ("[::1]:3000", b"http://[::1]:3000"),
            ("http://[2001:DB8::1]", b"http://[2001:db8::1]"),
            # names with other letters travel as punycode
            ("xn--bcher-kva.example", b"https://xn--bcher-kva.example"),
            ("bücher.example", b"https://xn--bcher-kva.example"),
            # schemes without a default port
            ("chrome-extension://abcdef", b"chrome-extension://abcdef"),
        ],
    )
    async def test_origin_that_matches_is_let_through(self, pattern, origin):
        """A single pattern is enough, anywhere in the list."""
        assert await let_through([pattern], origin)
        assert await let_through(["other.example", pattern], origin)

    @pytest.mark.parametrize(
        ("pattern", "origin"),
        [
            ("example.com", b"http://www.example.com"),
            ("example.com", b"http://example.com.evil.example"),
            ("example.com", b"http://evilexample.com"),
            ("example.com", b"http://example.org"),
            ("example.com", b"http://user@evil.example"),
            ("example.com", b"http://example.com@evil.example"),
            (".example.com", b"http://evilexample.com"),
            (".example.com", b"http://example.com.evil.example"),
            ("example.com:8000", b"http://example.com"),
            ("example.com:8000", b"http://example.com:8001"),
            ("example.com:80", b"https://example.com"),
            ("example.com:80", b"custom://example.com"),
            ("http://example.com", b"https://example.com"),
            ("https://example.com", b"http://example.com"),
            ("http://example.com", b"http://example.com:8080"),
            ("http://example.com", b"ws://example.com"),
            ("https://.example.com:8443", b"https://www.example.com"),
            ("https://.example.com:8443", b"http://www.example.com:8443"),
            ("127.0.0.1", b"http://127.0.0.10"),
            ("[::1]", b"http://[::2]"),
            ("[::1]:3000", b"http://[::1]"),
            ("xn--bcher-kva.example", b"https://bucher.example"),
            ("chrome-extension://abcdef", b"chrome-extension://other"),
            ("", b"http://example.com"),
            (".", b"http://example.com"),
            (".", b"null"),
            ("example.*", b"http://example.com"),
        ],
    )
    async def test_other_origin_is_rejected(self, pattern, origin):
        """A pattern matches nothing but itself."""
        assert not await let_through([pattern], origin)

    async def test_empty_list_rejects_everything(self):
        """An empty list allows nothing."""
        assert not await let_through([], b"http://example.com")
        assert not await let_through([])

    @pytest.mark.parametrize("name", [b"origin", b"Origin", b"ORIGIN"])
    async def test_header_is_found_in_any_case(self, name):
        """Servers send lower case, tests and proxies may not."""
        assert await let_through(["example.com"], b"http://example.com", name=name)

    async def test_patterns_may_come_from_a_generator(self):
        """The middleware reads the patterns once, when it is made."""
        application = OriginValidator(AsyncWebsocketConsumer.as_asgi(), (p for p in ["a.example"]))
        for _ in range(2):
            headers = [(b"origin", b"http://a.example")]
            client = WebsocketCommunicator(application, "/", headers=headers)
            assert await client.connect() == (True, None)
            await client.disconnect()


class TestOriginsThatSayNothing:
    @pytest.mark.parametrize(
        "origins",
        [
            (),
            (b"http://example.com", b"http://evil.example"),
            (b"http://example.com", b"http://example.com"),
            (b"null",),
            (b"",),
            (b"example.com",),
            (b"http://",),
            (b"http://example.com:port",),
            (b"http://example.com:99999",),
            (b"http://[::1",),
            (b"http://b\xc3\xbccher.example",),
            (b"\xff",),
        ],
        ids=repr,
    )
    async def test_missing_or_malformed_origin_is_allowed_by_a_star_only(self, origins):
        """An origin that cannot be parsed is rejected without an error."""
        assert not await let_through(["example.com", ".example.com"], *origins)
        assert await let_through(["*"], *origins)


class TestMistakes:
    async def test_http_scope_raises_a_sentence(self):
        """Pages and WebSockets are protected by different means."""
        application = OriginValidator(AsyncWebsocketConsumer.as_asgi(), ["*"])
        communicator = ApplicationCommunicator(application, {"type": "http"})
        with pytest.raises(ValueError, match=r"OriginValidator .*'http'.*WebSocket routes"):
            await communicator.wait()

    def test_string_in_place_of_a_list_raises_a_sentence(self):
        """A string is a list of letters, and would match nothing."""
        with pytest.raises(TypeError, match=r"the string 'example\.com'; pass a list"):
            OriginValidator(AsyncWebsocketConsumer.as_asgi(), "example.com")

    @pytest.mark.parametrize("pattern", ["http://example.com:port", "example.com:99999", "[::1"])
    def test_malformed_pattern_raises_when_it_is_given(self, pattern):
        """The error comes before the first client."""
        with pytest.raises(ValueError, match="is malformed") as caught:
            OriginValidator(AsyncWebsocketConsumer.as_asgi(), ["*", pattern])
        assert repr(pattern) in str(caught.value)


class TestOverriding:
    async def test_valid_origin_may_be_overridden(self):
        """The rule is one method: it gets the parsed origin, or None."""
        seen = []

        class Own(OriginValidator):
            def valid_origin(self, parsed_origin):
                seen.append(parsed_origin)
                return True

        application = Own(AsyncWebsocketConsumer.as_asgi(), [])
        headers = [(b"origin", b"HTTP://Example.com:81")]
        for headers_sent in (headers, []):
            client = WebsocketCommunicator(application, "/", headers=headers_sent)
            assert await client.connect() == (True, None)
            await client.disconnect()
        assert seen == [urlsplit("http://example.com:81"), None]

    async def test_application_inside_gets_the_scope_unchanged(self):
        """The middleware only reads it."""
        scopes = []

        async def application(scope, receive, send):
            scopes.append(scope)

        headers = [(b"origin", b"http://example.com")]
        client = WebsocketCommunicator(
            OriginValidator(application, ["example.com"]), "/chat?room=1", headers=headers
        )
        await client.wait()
        assert scopes == [client.scope]
