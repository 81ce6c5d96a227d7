"""`/metrics`, `/healthz` and `/readyz` on a port, from threads of their own: it answers also when the event loop does not.

Callers are not trusted to behave: a request head has 8 KiB and 5 s in all, and 8 connections are served at once.
"""

from __future__ import annotations

import io
import logging
import socket
import socketserver
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from mrelease_agent.address import TcpAddress, parse_tls

MAX_HEAD_BYTES: Final = 8 * 1024
MAX_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 8
_TEXT: Final = "text/plain; charset=utf-8"
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_log = logging.getLogger(__name__)


class HttpServer:
    """The HTTP server of the agent, serving from construction to ``close``.

    ``listen`` is ``IP:port`` or ``[IPv6]:port``; who may reach it is for the configuration to check. The callables run on the server's
    threads: ``alive`` says whether the agent works (``event_loop_answers``), ``ready`` why it is not ready (one line; None: it is),
    ``exposition`` gives the metrics, ``openmetrics`` gives them to who accepts OpenMetrics 1.0.0.

    Raises AddressError for another ``listen``, OSError where the port cannot be bound.
    """

    def __init__(
        self,
        listen: str,
        *,
        alive: Callable[[], bool],
        ready: Callable[[], str | None],
        exposition: Callable[[], bytes],
        openmetrics: Callable[[], bytes] | None = None,
    ) -> None:
        def metrics(accept: str) -> _Page:
            if openmetrics is not None and _wants_openmetrics(accept):
                return HTTPStatus.OK, _OPENMETRICS_TYPE, openmetrics()
            return HTTPStatus.OK, _EXPOSITION, exposition()

        pages: dict[str, Callable[[str], _Page]] = {
            "/metrics": metrics,
            "/healthz": lambda _: _health(None if alive() else "the event loop does not answer"),
            "/readyz": lambda _: _health(ready()),
        }
        try:
            self._server = _Server(parse_tls(listen), pages)
        except OSError as error:
            raise OSError(f"cannot listen on {listen} for HTTP: {error.strerror}; choose another port for `http_listen`") from error
        host, port = self._server.socket.getsockname()[:2]
        #: Where it listens, with the port that the kernel chose for port 0.
        self.address = TcpAddress(host, port)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="mrelease-http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to listen; requests in progress end with their threads."""
        self._closed.set()
        self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
        self._thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        # Not serve_forever: it wakes up twice a second to see whether it should stop, and spins while there is no free descriptor.
        while not self._closed.is_set():
            try:
                connection, peer = self._server.get_request()
            except OSError:
                self._closed.wait(0.1)
                continue
            try:
                self._server.process_request(connection, peer)
            except Exception:
                _log.exception("HTTP connection refused")
                self._server.shutdown_request(connection)


def _wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header, RFC 9110, names version 1.0.0 of the format, or any; Prometheus does where it has to choose."""
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        given = {name: value for name, _, value in (part.partition("=") for part in parameters)}
        is_refused = not given.get("q", "1").strip("0.")
        if kind == "application/openmetrics-text" and given.get("version", "1.0.0") == "1.0.0" and not is_refused:
            return True
    return False


def event_loop_answers(loop: AbstractEventLoop, seconds: float = 1.0) -> bool:
    """Whether ``loop`` runs a callback within ``seconds``. To be called on another thread than the loop's."""
    answered = threading.Event()
    try:
        loop.call_soon_threadsafe(answered.set)
    except RuntimeError:  # the loop is closed
        return False
    return answered.wait(seconds)


_Page = tuple[HTTPStatus, str, bytes]


def _health(trouble: str | None) -> _Page:
    status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
    return status, _TEXT, ((trouble or "ok") + "\n").encode()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    # Not http.server.HTTPServer: it asks DNS for its own name when it starts.
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64  # a burst of callers is told to come back, not left to its SYN timer

    def __init__(self, address: TcpAddress, pages: dict[str, Callable[[str], _Page]]) -> None:
        self.pages = pages
        self.address_family = address.family
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((address.host, address.port), _Handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        if self._free.acquire(blocking=False):
            try:
                super().process_request(request, client_address)
            except RuntimeError:  # no other thread can be made: a probe that is not answered would end an agent that serves
                self.process_request_thread(request, client_address)
            except BaseException:
                self._free.release()
                raise
        else:
            assert isinstance(request, socket.socket)
            request.setblocking(False)
            with suppress(OSError):
                request.send(_BUSY)
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - socketserver's
        # A caller that went away is its own affair; a page that failed has been answered and logged.
        _log.debug("HTTP connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = MAX_SECONDS  # of each write

    def handle(self) -> None:
        # The parser then reads from memory: no caller can feed it slowly or without end.
        head = _read_head(self.connection)
        if head is None:
            self.requestline, self.command = "", ""
            self._answer((HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TEXT, b"request too large\n"))
        else:
            self.rfile = io.BytesIO(head)
            super().handle()

    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._answer((HTTPStatus.NOT_FOUND, _TEXT, f"not found; there is {', '.join(self.server.pages)}\n".encode()))
            return
        try:
            answer = page(self.headers.get("Accept", ""))
        except Exception:
            _log.exception("HTTP page failed: %s", self.path.partition("?")[0])
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"failed; see the agent's log\n")
        self._answer(answer)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - http.server's
        """Answer a request that cannot be parsed, without echoing any of it."""
        self._answer((HTTPStatus(code), _TEXT, b"bad request\n"))

    def _answer(self, page: _Page) -> None:
        status, content_type, body = page
        self.close_connection = True
        self.request_version = "HTTP/1.0"  # also where none was understood, else there would be no headers
        self.send_response_only(status)  # send_response would add the version of Python
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's
        """Say nothing: scrapes and probes would be most of the log."""


def _read_head(connection: socket.socket) -> bytes | None:
    """Read up to the empty line; empty where it does not come in time or at all, None where it comes too late in the text."""
    head = bytearray()
    end = time.monotonic() + MAX_SECONDS
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        if len(head) >= MAX_HEAD_BYTES:
            return None
        connection.settimeout(max(end - time.monotonic(), 0.001))
        try:
            chunk = connection.recv(MAX_HEAD_BYTES - len(head))
        except TimeoutError:
            return b""
        if not chunk:
            return b""
        head += chunk
    connection.settimeout(MAX_SECONDS)
    return bytes(head)
