"""The files of the deployment guide run, as far as this machine can."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import httpx
import pytest
import websockets
import yaml
from uvicorn.main import main as uvicorn_main

import fast_channels
from fast_channels.drain import CANCEL_PAUSES_SECONDS
from fast_channels.layers import (
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
)
from fast_channels.layers.redis._client import CLOSE_TIMEOUT_SECONDS
from fast_channels.testing.server import free_port
from tests.chaos.servers import Authority
from tests.documents.support import ROOT, block_with
from tests.servers.support import PATIENCE, START_PATIENCE, closing, complaints, heard

GUIDE = ROOT / "docs" / "deployment.md"
EXAMPLES = ROOT / "docs" / "examples" / "deployment"
SOURCE = Path(fast_channels.__file__).resolve().parents[1]

RESTART = 1012


# -- contents of the files --------------------------------------------------------


def unit():
    """Return the sections of the systemd unit, with continued lines joined."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string((EXAMPLES / "chat.service").read_text().replace("\\\n", " "))
    return parser


def unit_command():
    return shlex.split(unit()["Service"]["ExecStart"])


def image_command():
    text = (EXAMPLES / "Dockerfile").read_text().replace("\\\n", "")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    return json.loads(command)


def compose():
    return yaml.safe_load((EXAMPLES / "compose.yaml").read_text())


def option(command, name):
    """Return the value of an option of a command."""
    return command[command.index(name) + 1]


def seconds(text):
    return float(str(text).removesuffix("s"))


# -- servers -------------------------------------------------------------------


class Process:
    """A program of the guide, with its output in a file. Leaving the block stops it."""

    def __init__(self, command, folder, **environment):
        self.log = folder / f"{Path(command[0]).name}.log"
        own = {"PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1", **environment}
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=EXAMPLES, env={**os.environ, **own}, stdout=output, stderr=output
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def output(self):
        return self.log.read_text(errors="replace")

    def comes_up(self, there):
        """Wait until a condition holds; fail if the program ends before."""
        deadline = time.monotonic() + START_PATIENCE
        while not there():
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            # Servers have no common way to report that they are ready.
            time.sleep(0.02)

    async def ends_when_told(self):
        """Send SIGTERM and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, PATIENCE)


@pytest.fixture
def folder():
    """Yield a folder whose path is short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="fc") as name:
        yield Path(name)


@pytest.fixture
def serve(folder, redis_url):
    """Return a function that starts uvicorn with the options of the unit and another socket."""
    with contextlib.ExitStack() as stack:

        def start():
            program, *options = unit_command()
            options[options.index("--uds") + 1] = str(folder / "uvicorn.sock")
            # How several of them drain is shown by tests/chaos/test_drain.py.
            options[options.index("--workers") + 1] = "1"
            command = [Path(sys.executable).with_name(Path(program).name), *options]
            environment = {"REDIS_URL": redis_url, "DRAIN_TIMEOUT": "5", "DRAIN_SPREAD": "0.2"}
            server = stack.enter_context(Process(command, folder, **environment))
            server.comes_up(lambda: accepts(folder / "uvicorn.sock"))
            return server

        yield start


def accepts(path):
    """Return True if a server listens on a socket."""
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(str(path)) == 0


def unix_client(folder):
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "uvicorn.sock"))
    return httpx.AsyncClient(transport=transport, base_url="http://chat", timeout=PATIENCE)


async def comes_in(folder):
    """Connect to the socket of the server, without a proxy."""
    path = str(folder / "uvicorn.sock")
    return await websockets.unix_connect(path, "ws://chat/ws/chat?ticket=secret")


async def test_service_works_and_drains_with_the_command_of_the_unit(serve, folder):
    """Clients read each other; SIGTERM closes them with 1012, and the exit code is 0."""
    server = serve()
    clients = [await comes_in(folder) for _ in range(4)]
    await clients[0].send("hello")
    for client in clients:
        assert await heard(client) == ["hello"]
    async with unix_client(folder) as http:
        health = await http.get("/healthz")
        metrics = (await http.get("/metrics")).text
    assert (health.status_code, health.json()) == (200, {"chat": "ready"})
    assert re.search(r'^fast_channels_delivered_total\{layer="chat"\} \d+$', metrics, re.MULTILINE)
    assert "# TYPE fast_channels_channels gauge" in metrics
    assert 'fast_channels_ready{layer="chat"} 1' in metrics
    code, ends = await asyncio.gather(
        server.ends_when_told(), asyncio.gather(*map(closing, clients))
    )
    assert code == 0
    assert [end[0] for end in ends] == [RESTART] * 4
    assert complaints(server.output) == []
    assert server.output.count("code=1012 reason='restarting' by=server") == 4
    # The log has no query string, with the options of the unit.
    assert "secret" not in server.output


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
async def test_service_is_reached_through_nginx_as_configured(serve, folder):
    """nginx passes frames and the client's address, but no query to the log and no /metrics."""
    server = serve()
    port = free_port()
    authority = Authority(folder)
    certificate, key = authority.issue("chat.example.org")
    text = (EXAMPLES / "nginx.conf").read_text()
    for ours, theirs in {
        "/run/chat/uvicorn.sock": str(folder / "uvicorn.sock"),
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/chat/certificate.pem": str(certificate),
        "/etc/ssl/chat/key.pem": str(key),
        "/var/log/nginx/chat.log": str(folder / "access.log"),
    }.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    (folder / "chat.conf").write_text(text)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ {temporary} include {folder}/chat.conf; }}\n"
    )
    context = ssl.create_default_context(cafile=authority.certificate)
    address = f"127.0.0.1:{port}"
    command = ["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    with Process(command, folder) as nginx:
        nginx.comes_up((folder / "nginx.pid").exists)
        url = f"wss://{address}/ws/chat?ticket=secret"
        client = await websockets.connect(url, ssl=context)
        await client.send("hello")
        assert await heard(client) == ["hello"]
        async with httpx.AsyncClient(verify=context) as http:
            assert (await http.get(f"https://{address}/healthz")).status_code == 200
            assert (await http.get(f"https://{address}/metrics")).status_code == 404
        assert await server.ends_when_told() == 0
        assert (await closing(client))[0] == RESTART
    assert "client=127.0.0.1:0 path='/ws/chat'" in server.output
    log = (folder / "access.log").read_text()
    assert '"GET /ws/chat" 101' in log
    assert "secret" not in log


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Hypercorn 0.18 waits for its clients")
async def test_service_drains_under_hypercorn(folder, redis_url):
    """Clients are closed with 1012 before Hypercorn stops; its exit code is 0."""
    port = free_port()
    environment = {"REDIS_URL": redis_url, "PORT": str(port), "DRAIN_SPREAD": "0.2"}
    command = [sys.executable, "serve_hypercorn.py"]
    with Process(command, folder, **environment) as server:
        server.comes_up(lambda: "Running on" in server.output)
        client = await websockets.connect(f"ws://127.0.0.1:{port}/ws/chat")
        await client.send("hello")
        assert await heard(client) == ["hello"]
        code, end = await asyncio.gather(server.ends_when_told(), closing(client))
    assert (code, end[0]) == (0, RESTART), server.output
    assert complaints(server.output) == []


async def test_health_is_503_while_the_process_drains(load_example, registry, redis_url):
    """A balancer sees 503 during the drain and sends clients elsewhere; afterwards it sees 200."""
    service = load_example("deployment/service", REDIS_URL=redis_url)
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://chat") as http:
        assert (await http.get("/healthz")).status_code == 200
        await registry.drain(timeout=0, spread=0)
        try:
            assert (await http.get("/healthz")).status_code == 503
        finally:
            registry.connections.resume()
        assert (await http.get("/healthz")).status_code == 200


# -- files that are looked at --------------------------------------------------


def test_options_of_uvicorn_exist():
    """Uvicorn has each option that a file passes to it."""
    known = {name for param in uvicorn_main.params for name in param.opts}
    for command in (unit_command(), image_command()):
        options = [word for word in command if word.startswith("--")]
        assert len(options) > 4
        assert set(options) <= known
        assert command[1] == "service:app"


def test_figures_for_sizing_hold_for_the_commands():
    """The commands turn off compression, because the figures were measured without it."""
    for command in (unit_command(), image_command()):
        assert option(command, "--ws-per-message-deflate") == "false"


def test_service_that_could_not_start_is_started_again():
    """The unit restarts always: with workers, uvicorn exits with 0 without a broker."""
    assert option(unit_command(), "--workers") > "1"
    assert unit()["Service"]["Restart"] == "always"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_unit_is_one_that_systemd_takes(tmp_path):
    """systemd-analyze accepts the unit, with a program that exists here."""
    text = (EXAMPLES / "chat.service").read_text()
    text = text.replace("/srv/chat/.venv/bin/uvicorn", "/bin/true")
    (tmp_path / "chat.service").write_text(text)
    result = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "chat.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_times_fit_together():
    """The time to stop covers the drain, uvicorn, and closing the layers."""
    environment = dict(word.split("=") for word in unit()["Service"]["Environment"].split())
    chat = compose()["services"]["chat"]
    for settings, command, patience in (
        (environment, unit_command(), unit()["Service"]["TimeoutStopSec"]),
        (chat["environment"], image_command(), chat["stop_grace_period"]),
    ):
        drain = float(settings["DRAIN_TIMEOUT"])
        assert float(settings["DRAIN_SPREAD"]) <= drain
        graceful = float(option(command, "--timeout-graceful-shutdown"))
        needed = drain + sum(CANCEL_PAUSES_SECONDS) + graceful + 2 * CLOSE_TIMEOUT_SECONDS
        assert needed + 5 < seconds(patience)


def test_compose_file_describes_what_the_image_serves():
    """Both files have one port, and services depend on services that exist."""
    services = compose()["services"]
    ports = services["chat"]["ports"]
    assert [port.rpartition(":")[2] for port in ports] == [option(image_command(), "--port")]
    first, last = ports[0].split(":")[1].split("-")
    assert int(last) - int(first) + 1 == services["chat"]["deploy"]["replicas"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
    docker_file = (EXAMPLES / "Dockerfile").read_text()
    assert f":{option(image_command(), '--port')}/healthz" in docker_file
    assert "COPY service.py" in docker_file
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (named,) = re.findall(r"'fast-channels\[([a-z,]+)\]'", docker_file)
    assert set(named.split(",")) <= set(extras)


# -- blocks of the page ----------------------------------------------------------


def test_sentinel_and_tls_of_the_guide_are_addresses(registry):
    """Making the layers of the page checks every keyword."""
    exec(block_with(GUIDE, "sentinels"), {})
    assert isinstance(registry["chat"], RedisStreamsChannelLayer)
    assert "sentinel master 'main'" in str(registry["chat"])
    exec(block_with(GUIDE, "rediss://"), {})
    assert isinstance(registry["notifications"], RedisPubSubChannelLayer)
    # Neither name nor password.
    assert str(registry["notifications"]).endswith("['rediss://valkey.internal:6379'])")
    assert channel_layers is registry


def test_times_of_the_guide_are_settings(tmp_path):
    """The page sets only attributes that the registry has, and a lifespan accepts them."""
    check = """
import asyncio
async def main():
    async with channel_layers.lifespan():
        print(sorted(set(vars(channel_layers)) - set(vars(type(channel_layers)()))))
asyncio.run(main())
"""
    command = [sys.executable, "-c", block_with(GUIDE, "drain_spread = ") + check]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


# Rows of the sizing table: file, case and contender of the measurement, metric, and its factor.
MEASURED = {
    "an idle connection": ("connect", "2,000 connections", "ours-pubsub", "memory", 1),
    "a client that connects": ("connect", "2,000 connections", "ours-pubsub", "cpu", 1e-3),
    "a frame that comes in": ("echo", "50 connections", "ours-pubsub", "cpu", 1),
    "a delivery, by a handler": (
        *("fanout", "500 clients, 20 in flight", "ours-pubsub"),
        *("cpu", 1),
    ),
    "a delivery, forwarded, coalesced": (
        *("fanout", "500 clients, 20 in flight", "ours-both"),
        *("cpu", 1),
    ),
}


def test_figures_for_sizing_are_those_that_were_measured():
    """Each number of the table is within a quarter of the median in docs/performance."""
    text = GUIDE.read_text()
    for row, (file, case, contender, metric, factor) in MEASURED.items():
        measured = json.loads((ROOT / "docs" / "performance" / f"{file}.json").read_text())
        (rounds,) = [
            found["rounds"][metric]
            for found in measured["rows"]
            if (found["case"], found["contender"]) == (case, contender)
        ]
        (shown,) = re.findall(rf"^\| {re.escape(row)} \| ([\d.]+) ", text, re.MULTILINE)
        assert float(shown) == pytest.approx(statistics.median(rounds) * factor, rel=0.25), row
