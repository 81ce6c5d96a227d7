"""Requests to the API server, on connections that are kept. Standard library: the plugin starts in the time that kubectl does."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from mrelease._text import printable
from mrelease._version import VERSION
from mrelease.errors import OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound, ResolutionError
from mrelease.resolvers.kubernetes._login import Login

Json = dict[str, Any]
ValueT = TypeVar("ValueT")
AGENT: Final = ("User-Agent", f"mrelease/{VERSION}")
# Objects a page, as kubectl.
_PAGE: Final = 500
_MAX_BYTES: Final = 256 << 20
_KEPT: Final = 16
# How often a request that only reads is made again where the server has too much to do, or hung up.
_ATTEMPTS: Final = 4
_BUSY: Final = (429, 502, 503, 504)


class Conflict(ReferenceNotFound):
    """Something else has the name now."""


@dataclass(slots=True)
class Api:
    """An API server. Threads may share it."""

    login: Login
    _idle: list[http.client.HTTPConnection] = field(default_factory=list[http.client.HTTPConnection])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, path: str, end: float, **query: str) -> Json:
        """One object. ``end``: time.monotonic() by which it is there. Raises ResolutionError."""
        return self._request("GET", path, query, end)

    def items(self, path: str, end: float, **query: str) -> list[Json]:
        """Every object of a list, page after page, as of one moment. Raises ResolutionError."""
        return self.list_versioned(path, end, **query)[0]

    def list_versioned(self, path: str, end: float, **query: str) -> tuple[list[Json], str]:
        """``items``, and their resourceVersion, from which a watch goes on."""
        items: list[Json] = []
        version = ""
        for page, version in self._pages(path, end, query):  # noqa: B007 - that of the last page
            items += page
        return items, version

    def each(self, path: str, end: float, read: Callable[[Json], ValueT], **query: str) -> list[ValueT]:
        """What ``read`` makes of every object of a list. A page is forgotten before the next one is asked for: objects are large.

        Raises ResolutionError.
        """
        found: list[ValueT] = []
        for page, _ in self._pages(path, end, query):
            found += map(read, page)
            page.clear()
        return found

    def _pages(self, path: str, end: float, query: Mapping[str, str]) -> Generator[tuple[list[Json], str]]:
        token = ""
        while True:
            page = self._request("GET", path, {**query, "limit": str(_PAGE), **({"continue": token} if token else {})}, end)
            metadata = cast("Json", page.get("metadata") or {})
            token = str(metadata.get("continue") or "")
            yield cast("list[Json]", page.get("items") or []), str(metadata.get("resourceVersion") or "")
            if not token:
                return

    def delete(self, path: str, end: float, body: Mapping[str, Any]) -> Json:
        """Delete an object; made once, whatever happens. Raises ResolutionError: ``Conflict`` where a precondition does not hold."""
        return self._request("DELETE", path, {}, end, json.dumps(body).encode())

    def watch(self, path: str, version: str, opened: Callable[[socket.socket], object], **query: str) -> Generator[tuple[str, Json]]:
        """Events from ``version`` on until the server ends them. ``opened`` is given the socket, by whose shutdown others end it."""
        query |= {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version}
        connection = self._connect(time.monotonic() + 30)
        try:
            response = self._send(connection, "GET", f"{path}?{urlencode(query)}", None, time.monotonic() + 30)
            if response.status != http.HTTPStatus.OK:
                raise _refusal(response.status, response.read(_MAX_BYTES))
            assert connection.sock is not None
            # The server ends a watch after 5 to 10 minutes; a network that is gone says nothing.
            connection.sock.settimeout(900)
            opened(connection.sock)
            while line := response.readline():
                event = json.loads(line)
                yield str(event["type"]), event["object"]
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise _unavailable(self.login, error) from None
        finally:
            connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            for connection in self._idle:
                connection.close()
            self._idle.clear()

    def _request(self, method: str, path: str, query: Mapping[str, str], end: float, body: bytes | None = None) -> Json:
        target = f"{path}?{urlencode(query)}" if query else path
        attempts = _ATTEMPTS if method == "GET" else 1
        renewed = False
        while True:
            attempts -= 1
            try:
                status, content, pause = self._attempt(method, target, end, body)
            except (OSError, http.client.HTTPException) as error:
                if attempts and not isinstance(error, ssl.SSLCertVerificationError) and time.monotonic() < end:
                    continue
                raise _unavailable(self.login, error) from None
            if status == http.HTTPStatus.UNAUTHORIZED and not renewed and self.login.forget():
                renewed, attempts = True, attempts + 1
                self.close()
                continue
            if status in _BUSY and attempts and time.monotonic() + pause < end:
                time.sleep(pause)
                continue
            if status >= http.HTTPStatus.BAD_REQUEST:
                raise _refusal(status, content)
            try:
                return dict(json.loads(content))
            except (ValueError, TypeError, RecursionError):
                raise OrchestratorUnavailable(f"what answers at {self.login.server} is no API server", "check the kubeconfig") from None

    def _attempt(self, method: str, target: str, end: float, body: bytes | None) -> tuple[int, bytes, float]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        # One that was kept may have been closed by the server: what must not be sent twice gets a new one.
        if connection is not None and method != "GET":
            connection.close()
            connection = None
        connection = connection or self._connect(end)
        try:
            response = self._send(connection, method, target, body, end)
            content = response.read(_MAX_BYTES)
        except BaseException:
            connection.close()
            raise
        pause = response.headers.get("Retry-After", "")
        with self._lock:
            if not response.will_close and len(self._idle) < _KEPT:
                self._idle.append(connection)
                connection = None
        if connection is not None:
            connection.close()
        return response.status, content, min(float(pause), 10.0) if pause.isdigit() else 0.5

    def _send(
        self, connection: http.client.HTTPConnection, method: str, target: str, body: bytes | None, end: float
    ) -> http.client.HTTPResponse:
        left = _left(end)
        connection.timeout = left
        if connection.sock is not None:
            connection.sock.settimeout(left)
        connection.putrequest(method, self.login.prefix + target, skip_accept_encoding=True)
        for name, value in (AGENT, ("Accept", "application/json"), *self.login.headers(left)):
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Type", "application/json")
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return connection.getresponse()

    def _connect(self, end: float) -> http.client.HTTPConnection:
        left = _left(end)
        login, tls = self.login, self.login.tls(left)
        proxy = urlsplit(login.proxy) if login.proxy else None
        host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (login.host, login.port)
        if proxy and proxy.scheme not in ("http", ""):
            raise OrchestratorUnavailable(f"the way to the API server is a proxy of another kind: {proxy.scheme}", "use one of HTTP")
        connection = _Connection(host, port, left, tls, login.server_name)
        if proxy:
            user = base64.b64encode(f"{proxy.username}:{proxy.password or ''}".encode()).decode() if proxy.username else ""
            connection.set_tunnel(login.host, login.port, {"Proxy-Authorization": f"Basic {user}"} if user else {})
        return connection


class _Connection(http.client.HTTPConnection):
    """A connection whose server may have another name in its certificate than in its address."""

    def __init__(self, host: str, port: int, timeout: float, tls: ssl.SSLContext | None, server_name: str) -> None:
        super().__init__(host, port, timeout=timeout)
        self._tls, self._server_name = tls, server_name

    def connect(self) -> None:
        """See http.client."""
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server_name)


def path_of(*parts: str) -> str:
    """A path of these parts, none of which can leave its place."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def refusal(status: int, message: str) -> ResolutionError:
    """What an answer of the API server means. ``message``: what it says."""
    said = printable(message).strip() or f"HTTP status {status}"
    if status == http.HTTPStatus.UNAUTHORIZED:
        return OrchestratorDenied("the API server does not know who asks", "log in again: `kubectl auth whoami` says the same")
    if status == http.HTTPStatus.FORBIDDEN:
        return OrchestratorDenied(said, "ask for the Role and the ClusterRole ...-caller that the Helm chart makes (rbac.subjects)")
    if status == http.HTTPStatus.NOT_FOUND:
        return ReferenceNotFound(said, "see what there is: kubectl get")
    if status == http.HTTPStatus.CONFLICT:
        return Conflict(said, "the one that was meant is gone")
    return OrchestratorUnavailable(f"the API server says {status}: {said}", "try again later")


def _refusal(status: int, content: bytes) -> ResolutionError:
    message = ""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        message = str(json.loads(content).get("message") or "")
    return refusal(status, message[:1000])


def _unavailable(login: Login, error: Exception) -> OrchestratorUnavailable:
    if isinstance(error, ssl.SSLCertVerificationError):
        return OrchestratorUnavailable(f"the certificate of {login.server} is not accepted: {error.verify_message}", "check the kubeconfig")
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return OrchestratorUnavailable(
        f"the API server {login.server} cannot be asked: {printable(why)}", "try again; `kubectl version` says why"
    )
