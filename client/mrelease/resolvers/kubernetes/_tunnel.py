"""Tunnels through the API server: sockets of this machine that lead to a port of a pod, as `kubectl port-forward` makes them.

The API server serves pods/portforward over WebSocket with the subprotocol v4.channel.k8s.io (k8s.io/kubelet/pkg/cri/streaming/portforward):
one port, one pair of channels; the first byte of a message names its channel, 0 for data and 1 for what went wrong; on each the first
message from the other end is the port, two bytes. One WebSocket is one connection to the pod, so each accepted one opens its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeout
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from mrelease._text import printable
from mrelease.errors import MissingExtra, NoAgent, OrchestratorUnavailable, ResolutionError
from mrelease.resolvers.kubernetes._api import AGENT, path_of, refusal
from mrelease.resolvers.kubernetes._login import Login

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from websockets.asyncio.client import ClientConnection

ValueT = TypeVar("ValueT")

PROTOCOL: Final = "v4.channel.k8s.io"
_DATA: Final = 0
_ERROR: Final = 1
_PORT_BYTES: Final = 2
# Of one connection at most so much is kept here in each direction, beside what the kernel keeps.
_CHUNK: Final = 64 << 10
_MESSAGES: Final = 16
# The other end sends 32 KiB a message.
_MAX_MESSAGE: Final = 1 << 20
# sizeof(sun_path) - 1, unix(7), without the name of a socket.
_LONGEST_DIRECTORY: Final = 95
_RECONNECT: Final = 10.0
_TURNS: Final = 8


@dataclass(slots=True)
class _Tunnel:
    """One pod's port. ``ready``: the connection that was made to see whether it works, for whoever comes first."""

    url: str
    server: asyncio.Server | None = None
    ready: ClientConnection | None = None
    problem: ResolutionError | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])


class Tunnels:
    """All tunnels of a caller, with one thread. The sockets are in a directory of the user's own. Threads may share it."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._tunnels: dict[str, _Tunnel] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._directory: Path | None = None
        self._closed = False
        # TLS says goodbye and waits for an answer: who refuses an upgrade may keep the connection for whatever comes next.
        self._open: set[asyncio.BaseTransport] = set()

    def open(self, namespace: str, pod: str, port: int, end: float) -> str:
        """Make a tunnel and see that it works: the address of a socket. ``end``: time.monotonic() by which it does.

        Raises ResolutionError: MissingExtra, OrchestratorDenied, ReferenceNotFound where the pod is gone, NoAgent.
        """
        try:
            import_module("websockets.asyncio.client")
        except ModuleNotFoundError:
            # Before anything is begun.
            raise MissingExtra("a tunnel needs websockets", "pip install 'mrelease[kubernetes]', or run inside of the cluster") from None
        scheme = "wss" if self._login.server.startswith("https:") else "ws"
        host = f"[{self._login.host}]" if ":" in self._login.host else self._login.host
        path = path_of("api", "v1", "namespaces", namespace, "pods", pod, "portforward")
        tunnel = _Tunnel(f"{scheme}://{host}:{self._login.port}{self._login.prefix}{path}?ports={port}")
        with self._lock:
            if self._closed:
                raise RuntimeError("this resolver is closed")
            self._start()
            assert self._directory is not None
            address = f"{self._directory}/{next(self._numbers)}"
        self._wait(self._listen(tunnel, address, end), end)
        self._tunnels[f"unix://{address}"] = tunnel
        return f"unix://{address}"

    def problem(self, address: str) -> ResolutionError | None:
        """Why connections through this tunnel fail; None: nothing is known of that."""
        tunnel = self._tunnels.get(address)
        return None if tunnel is None else tunnel.problem

    def shut(self, address: str) -> None:
        """End one tunnel."""
        tunnel = self._tunnels.pop(address, None)
        if tunnel is not None and self._loop is not None:
            self._wait(_end(tunnel), time.monotonic() + 5)

    def close(self) -> None:
        """End all tunnels and the thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        for address in list(self._tunnels):
            with contextlib.suppress(ResolutionError):
                self.shut(address)
        with contextlib.suppress(ResolutionError):
            self._wait(self._drop_rest(), time.monotonic() + 5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> None:
        if self._loop is not None:
            return
        usual = tempfile.mkdtemp(prefix="mrelease-")  # 0700
        if len(usual) > _LONGEST_DIRECTORY:
            Path(usual).rmdir()
            usual = tempfile.mkdtemp(prefix="mrelease-", dir="/tmp")  # 0700
        self._directory = Path(usual)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="mrelease-tunnels", daemon=True)
        self._thread.start()

    def _wait(self, work: Coroutine[Any, Any, ValueT], end: float) -> ValueT:
        assert self._loop is not None
        future: Future[ValueT] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(max(0.0, end - time.monotonic()))
        except WaitTimeout:
            future.cancel()
            raise OrchestratorUnavailable("the tunnel was not ready in time", "is the node there? kubectl get nodes") from None

    async def _listen(self, tunnel: _Tunnel, path: str, end: float) -> None:
        tunnel.ready = await self._connect(tunnel.url, end)

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tunnel.tasks.add(task)
            try:
                await self._serve(tunnel, reader, writer)
            except asyncio.CancelledError:
                pass  # the tunnel is being shut; asyncio.streams would print it
            finally:
                tunnel.tasks.discard(task)
                writer.close()

        tunnel.server = await asyncio.start_unix_server(accepted, path, limit=_CHUNK)

    async def _serve(self, tunnel: _Tunnel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        websocket, tunnel.ready = tunnel.ready, None
        try:
            websocket = websocket or await self._connect(tunnel.url, time.monotonic() + _RECONNECT)
            await _pump(websocket, reader, writer)
        except ResolutionError as error:
            tunnel.problem = error
        finally:
            if websocket is not None:
                await websocket.close()

    async def _drop_rest(self) -> None:
        for transport in list(self._open):
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()
        # Each layer is told in a turn of the loop of its own.
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _connect(self, url: str, end: float) -> ClientConnection:
        from websockets.asyncio.client import ClientConnection, connect
        from websockets.exceptions import InvalidStatus, WebSocketException
        from websockets.typing import Subprotocol

        transports = self._open

        class Noted(ClientConnection):
            """Known until it is closed."""

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                transports.add(transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                transports.discard(self.transport)
                super().connection_lost(exc)

        left = max(0.1, end - time.monotonic())
        # Both may ask a program of the kubeconfig.
        tls = await asyncio.to_thread(self._login.tls, left)
        headers = await asyncio.to_thread(self._login.headers, left)
        secured: dict[str, Any] = {} if tls is None else {"ssl": tls, "server_hostname": self._login.server_name}
        try:
            return await connect(
                url,
                subprotocols=[Subprotocol(PROTOCOL)],
                additional_headers=headers,
                user_agent_header=AGENT[1],
                compression=None,  # it carries TLS
                proxy=self._login.proxy or None,
                open_timeout=left,
                close_timeout=1,
                ping_interval=30,
                # An end that does not read for a while does not answer: gRPC knows better whether it is alive.
                ping_timeout=None,
                max_size=_MAX_MESSAGE,
                max_queue=_MESSAGES,
                write_limit=_CHUNK,
                create_connection=Noted,
                **secured,
            )
        except InvalidStatus as error:
            raise _refused(error.response.status_code, bytes(error.response.body or b"")) from None
        except TimeoutError:
            raise OrchestratorUnavailable("the tunnel was not ready in time", "is the node there? kubectl get nodes") from None
        except (OSError, WebSocketException) as error:
            where = urlsplit(url).netloc
            raise OrchestratorUnavailable(f"there is no tunnel through {where}: {printable(str(error))}", "try again") from None


async def _pump(websocket: ClientConnection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes both ways until one end has no more. Each way waits for whoever takes them. Raises NoAgent for what the node says."""
    ways = {asyncio.create_task(_up(websocket, reader)), asyncio.create_task(_down(websocket, writer))}
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            await way
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _up(websocket: ClientConnection, reader: asyncio.StreamReader) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed, OSError):
        while chunk := await reader.read(_CHUNK):
            await websocket.send(bytes((_DATA,)) + chunk)


async def _down(websocket: ClientConnection, writer: asyncio.StreamWriter) -> None:
    from websockets.exceptions import ConnectionClosed

    frames = Frames()
    with contextlib.suppress(ConnectionClosed, OSError):
        while True:
            content = frames.data(await websocket.recv(decode=False))
            if content:
                writer.write(content)
                await writer.drain()


class Frames:
    """What the node sends for one port, message by message: the number of a channel, then its bytes.

    The first message of each channel begins with the number of the port.
    """

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def data(self, message: bytes) -> bytes:
        """Bytes for who is connected, in this message. Raises NoAgent for what the node says."""
        if not message:
            return b""
        channel, content = message[0], message[1:]
        if channel not in self._begun:
            self._begun.add(channel)
            content = content[_PORT_BYTES:]
        if channel == _ERROR and content:
            said = printable(content.decode("utf-8", "replace")).strip()[:500]
            raise NoAgent(f"the agent's pod cannot be reached: {said}", "see kubectl describe pod; `doctor` looks at every node")
        return content if channel == _DATA else b""


async def _end(tunnel: _Tunnel) -> None:
    if tunnel.server is not None:
        tunnel.server.close()
    for task in list(tunnel.tasks):
        task.cancel()
    await asyncio.gather(*tunnel.tasks, return_exceptions=True)
    if tunnel.ready is not None:
        await tunnel.ready.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _refused(status: int, content: bytes) -> ResolutionError:
    message = content.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        message = str(json.loads(content).get("message") or "")
    return refusal(status, message[:500])
