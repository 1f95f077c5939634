"""Servers of every kind: watched by Sentinels, behind TLS, with access rules."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fast_channels.testing.server import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable

ACL_DOCUMENT = Path(__file__).parents[2] / "docs" / "redis-acl.md"

# Upper bound in seconds for a failover on a busy machine, including the election.
FAILOVER = 20.0


def documented_rule() -> str:
    """Return the ACL SETUSER line of docs/redis-acl.md."""
    (line,) = re.findall(r"^ACL SETUSER .*$", ACL_DOCUMENT.read_text(), re.MULTILINE)
    return line


def of_documented_user(url: str) -> str:
    """Return an address with the name and password of the documented user."""
    _, _, name, *rules = documented_rule().split()
    (password,) = [rule.removeprefix(">") for rule in rules if rule.startswith(">")]
    return url.replace("://", f"://{name}:{password}@")


def comes_true_within(seconds: float, condition: Callable[[], object]) -> None:
    """Wait for a fact about servers that only polling can find out."""
    deadline = time.monotonic() + seconds
    while True:
        # A server that starts or stops answers with all kinds of errors.
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline, "what the test waits for does not happen"
        # Polling, because servers do not announce such changes.
        time.sleep(0.02)


# -- Sentinel ------------------------------------------------------------------

MASTER = "main"

# Sentinels must agree on a failover: a primary that only hangs for a moment is not lost.
SENTINEL_RULES = f"""
sentinel monitor {MASTER} 127.0.0.1 {{port}} 2
sentinel down-after-milliseconds {MASTER} 60000
sentinel failover-timeout {MASTER} 3000
sentinel parallel-syncs {MASTER} 1
"""


class SentinelServer(ValkeyServer):
    """One of the Sentinels that watch the primary on port `watched`."""

    def __init__(self, watched: int) -> None:
        super().__init__()
        self._watched = watched

    def _arguments(self, directory: str) -> list[str]:
        # A Sentinel writes its state to its configuration, so it needs a file.
        rules = Path(directory, "sentinel.conf")
        rules.write_text(SENTINEL_RULES.format(port=self._watched))
        return [
            *(str(rules), "--sentinel", "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", directory, "--logfile", "server.log"),
        ]

    def ask(self, *command: str) -> list | bytes:
        with redis.Redis(port=self.port, socket_timeout=2) as client:
            return client.execute_command("SENTINEL", *command)

    def knows_everybody(self) -> bool:
        """Return whether the Sentinel has met one replica and two other Sentinels, all healthy."""
        found = self.ask("MASTER", MASTER)
        if not isinstance(found, dict):
            # The form of the answer depends on the version of redis-py.
            found = dict(zip(found[::2], found[1::2], strict=True))
        state = {str(_text(key)): _text(value) for key, value in found.items()}
        return (
            str(state["num-slaves"]) == "1"
            and str(state["num-other-sentinels"]) == "2"
            and state["flags"] in ("master", {"master"})
        )


class WatchedPair:
    """A primary and its replica, watched by three Sentinels, inside a `with` block."""

    def __init__(self) -> None:
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.primary = ValkeyServer(options=quick)
        follows = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica = ValkeyServer(options=(*quick, *follows))
        self.sentinels = [SentinelServer(self.primary.port) for _ in range(3)]

    @property
    def host(self) -> dict:
        """Return an entry of `hosts` that finds the primary, wherever it runs."""
        sentinels = [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]
        return {"sentinels": sentinels, "master_name": MASTER}

    def kill_primary(self) -> None:
        """Kill the primary; the Sentinels notice within half a second."""
        self.primary.kill()
        for sentinel in self.sentinels:
            sentinel.ask("SET", MASTER, "down-after-milliseconds", "500")

    def fail_over(self) -> None:
        """
        Swap replica and primary in an orderly way.

        Sentinels leave the old primary alone for eight seconds. This method does the
        same at once.
        """
        self.sentinels[0].ask("FAILOVER", MASTER)
        comes_true_within(FAILOVER, self._has_switched)
        with redis.Redis.from_url(self.primary.url) as client, client.pipeline() as pipeline:
            pipeline.execute_command("REPLICAOF", "127.0.0.1", self.replica.port)
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "normal")
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            with contextlib.suppress(redis.ConnectionError):  # closes this connection, too
                pipeline.execute()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._kill)
            for server in (self.primary, self.replica):
                server.start()
            comes_true_within(FAILOVER, self._replicates)
            for sentinel in self.sentinels:
                sentinel.start()
            comes_true_within(FAILOVER, self._is_watched)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _has_switched(self) -> bool:
        addresses = [sentinel.ask("GET-MASTER-ADDR-BY-NAME", MASTER) for sentinel in self.sentinels]
        return all(int(port) == self.replica.port for _, port in addresses)

    def _replicates(self) -> bool:
        with redis.Redis(port=self.replica.port) as client:
            return client.info("replication")["master_link_status"] == "up"

    def _is_watched(self) -> bool:
        return all(sentinel.knows_everybody() for sentinel in self.sentinels)

    def _kill(self) -> None:
        # A clean shutdown of a primary waits for its replica, and no test needs the data.
        for server in (*self.sentinels, self.replica, self.primary):
            server.kill()


def _text(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


# -- TLS -----------------------------------------------------------------------

LIFE = dt.timedelta(days=1)


class Authority:
    """A private certificate authority with its files in `folder`."""

    def __init__(self, folder: Path, name: str = "private CA") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = self._key.public_key()
        self._id = x509.SubjectKeyIdentifier.from_public_key(public)
        certificate = (
            self._builder(self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_may_sign(), critical=True)
            .add_extension(self._id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # The certificate that clients and servers are told to trust.
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """Return the files of a certificate for 127.0.0.1, and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._id)
        certificate = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        paths = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return paths

    def server_context(self, *, asks_clients: bool = False) -> ssl.SSLContext:
        """Return a TLS context for a server; it may require certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.issue("server"))
        if asks_clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.certificate)
        return context

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - LIFE)
            .not_valid_after(now + LIFE)
        )


def _may_sign() -> x509.KeyUsage:
    uses = dict.fromkeys(
        [
            *("digital_signature", "content_commitment", "key_encipherment", "crl_sign"),
            *("data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
        ],
        False,
    )
    return x509.KeyUsage(key_cert_sign=True, **uses)
