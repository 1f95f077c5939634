"""
Certificates that a layer trusts over TLS, and its errors about others. See test_secured.py,
too.
"""

from __future__ import annotations

import pytest
import redis

from fast_channels.exceptions import LayerUnavailable
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Authority
from tests.chaos.support import works

pytestmark = pytest.mark.usefixtures("no_other_authorities")

# Both tests below check words of the error that this version leaves out.
OLD_CLIENT = redis.__version__.startswith("5.0.")


@pytest.fixture(scope="module")
def secured(valkey, authority):
    """The shared server, available over TLS."""
    with Proxy(valkey.port, tls=authority.server_context()) as proxy:
        yield proxy


async def test_authority_may_stand_beside_the_address(kind, make_layer, secured, authority):
    """The authority may be a keyword of its own, with an address or without."""
    trust = {"ssl_ca_certs": str(authority.certificate)}
    assert await works(await make_layer(kind, [{"address": secured.url, **trust}]))
    keywords = {"host": "127.0.0.1", "port": secured.port, "ssl": True, **trust}
    assert await works(await make_layer(kind, [keywords]))


@pytest.mark.skipif(OLD_CLIENT, reason="redis-py 5.0 says no more than 'Error 1'")
async def test_server_of_an_unknown_authority_is_not_spoken_to(kind, make_layer, secured, tmp_path):
    """The error names the certificate, and nothing was sent."""
    other = Authority(tmp_path, "another CA")
    url = f"{secured.url}?ssl_ca_certs={other.certificate}"
    with pytest.raises(LayerUnavailable, match="certificate verify failed"):
        await make_layer(kind, [url])


@pytest.mark.skipif(OLD_CLIENT, reason="redis-py 5.0 says no more than 'Error 1'")
async def test_server_for_another_name_is_not_spoken_to(kind, make_layer, secured, authority):
    """A certificate is for an address; older versions of redis-py need an option to check it."""
    options = f"ssl_ca_certs={authority.certificate}&ssl_check_hostname=True"
    with pytest.raises(LayerUnavailable, match="not valid for 'localhost'"):
        await make_layer(kind, [f"rediss://localhost:{secured.port}?{options}"])


async def test_client_may_need_a_certificate(kind, make_layer, valkey, authority):
    """The layer works with the certificate; without it, the error says so."""
    certificate, key = authority.issue("client")
    with Proxy(valkey.port, tls=authority.server_context(asks_clients=True)) as proxy:
        trust = f"{proxy.url}?ssl_ca_certs={authority.certificate}"
        own = f"&ssl_certfile={certificate}&ssl_keyfile={key}"
        layer = await make_layer(kind, [trust + own])
        assert await works(layer)
        await layer.close()
        with pytest.raises(LayerUnavailable):
            await make_layer(kind, [trust])
