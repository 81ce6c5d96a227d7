"""A scripted API server over plain HTTP: what a real one cannot be made to answer on demand. Real sockets, real WebSockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request as WebSocketRequest
from websockets.http11 import Response
from websockets.typing import Subprotocol

from mrelease.resolvers.kubernetes._api import Api
from mrelease.resolvers.kubernetes._login import Choice, log_in

PORT = 7443


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


#: Status, body and headers of an answer.
Answer = tuple[int, Any, Mapping[str, str]]


@dataclass(slots=True)
class FakeApi:
    """``answers``: for each path what is answered, one after the other; the last one again and again. ``asked``: every request."""

    address: str
    answers: dict[str, list[Answer]] = field(default_factory=dict[str, "list[Answer]"])
    asked: list[Asked] = field(default_factory=list[Asked])

    def say(self, path: str, body: Any, status: int = 200, **headers: str) -> None:
        """Add an answer."""
        self.answers.setdefault(path, []).append((status, body, {name.replace("_", "-"): text for name, text in headers.items()}))

    def kubeconfig(self, directory: Path, user: Mapping[str, Any] | None = None, **cluster: Any) -> str:
        """A file that leads here."""
        return write_kubeconfig(directory / "config", self.address, user, **cluster)


def write_kubeconfig(file: Path, server: str, user: Mapping[str, Any] | None = None, **cluster: Any) -> str:
    """A kubeconfig with one context, ``here``, whose namespace is ``ns``."""
    data = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": dict(user or {})}],
    }
    file.write_text(yaml.safe_dump(data))
    return str(file)


@contextmanager
def fake_api() -> Generator[FakeApi]:
    """An API server that answers as scripted, 404 where nothing is."""
    fake = FakeApi("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    fake.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def logged_in(api: FakeApi, folder: Path) -> Generator[Api]:
    """A client of the scripted API server, with a token."""
    made = Api(log_in(Choice(kubeconfig=api.kubeconfig(folder, {"token": "t"}))))
    try:
        yield made
    finally:
        made.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeApi

    def _answer(self) -> None:
        fake = self.fake
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        fake.asked.append(Asked(self.command, split.path, dict(parse_qsl(split.query)), dict(self.headers.items()), body))
        unknown: Answer = (404, {"message": f"{split.path} not found"}, {})
        script = fake.answers.get(split.path, [unknown])
        status, said, headers = script.pop(0) if len(script) > 1 else script[0]
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_DELETE = _answer  # noqa: N815 - their names in the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
        """Nothing."""


#: What the pod's end of a tunnel does with its connection.
Pod = Callable[[ServerConnection], Any]


@contextmanager
def fake_tunnel(pod: Pod, refuse: tuple[int, str] | None = None) -> Generator[str]:
    """The address of an API server that serves portforward alone; ``refuse``: it answers with this status and message."""
    ready: list[str] = []
    up, loop = threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def begun(connection: ServerConnection) -> None:
        # As k8s.io/kubelet/pkg/cri/streaming/portforward: the port, on both channels, little-endian.
        for channel in (0, 1):
            await connection.send(bytes((channel,)) + PORT.to_bytes(2, "little"))
        await pod(connection)

    def check(connection: ServerConnection, request: WebSocketRequest) -> Response | None:
        if refuse is None:
            return None
        status, message = refuse
        return connection.respond(HTTPStatus(status), json.dumps({"kind": "Status", "message": message}))

    async def main() -> None:
        subprotocols = [Subprotocol("v4.channel.k8s.io")]
        with socket.create_server(("127.0.0.1", 0)) as bound:
            ready.append(f"http://127.0.0.1:{bound.getsockname()[1]}")
            async with serve(begun, sock=bound, subprotocols=subprotocols, process_request=check, ping_interval=None):
                up.set()
                await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
