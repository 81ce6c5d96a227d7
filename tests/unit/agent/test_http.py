"""Health and metrics over HTTP: a real server on a loopback port, read with raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from mrelease_agent.address import AddressError
from mrelease_agent.telemetry import http
from mrelease_agent.telemetry.http import HttpServer, event_loop_answers


class Agent:
    """What the pages ask."""

    def __init__(self) -> None:
        self.answers = True
        self.trouble: str | None = None
        self.fails = False

    def alive(self) -> bool:
        return self.answers

    def ready(self) -> str | None:
        return self.trouble

    def exposition(self) -> bytes:
        if self.fails:
            raise ValueError("secret of the agent")
        return b"up 1\n"


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
def server(agent: Agent) -> Iterator[HttpServer]:
    server = HttpServer("127.0.0.1:0", alive=agent.alive, ready=agent.ready, exposition=agent.exposition)
    yield server
    server.close()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), timeout=30)


def ask(server: HttpServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    with connect(server) as client:
        client.sendall(request)
        return answer(client)


def answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    reply = b""
    while chunk := client.recv(65536):
        reply += chunk
    if not reply:
        return 0, {}, b""
    head, _, body = reply.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def test_metrics(server: HttpServer) -> None:
    status, headers, body = ask(server, get("/metrics?x=1"))
    assert (status, body) == (200, b"up 1\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "Server" not in headers


def test_head_has_the_headers_alone(server: HttpServer) -> None:
    status, headers, body = ask(server, get("/metrics", "HEAD"))
    assert (status, headers["Content-Length"], body) == (200, "5", b"")


def test_health_follows_the_event_loop(server: HttpServer, agent: Agent) -> None:
    assert ask(server, get("/healthz"))[::2] == (200, b"ok\n")
    agent.answers = False
    assert ask(server, get("/healthz"))[::2] == (503, b"the event loop does not answer\n")


def test_readiness_says_why_not(server: HttpServer, agent: Agent) -> None:
    assert ask(server, get("/readyz"))[::2] == (200, b"ok\n")
    agent.trouble = "draining: 3 operations in flight"
    assert ask(server, get("/readyz"))[::2] == (503, b"draining: 3 operations in flight\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/../metrics"), 404),
        (get("/metrics/"), 404),
        (get("/metrics", "POST"), 501),
        (get("/metrics", "<script>"), 501),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /metrics HTTP/9.9\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"x" * 8169 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x", 0),
        (b"", 0),
    ],
)
def test_other_requests_are_answered_without_an_echo_or_a_version(server: HttpServer, request_: bytes, status: int) -> None:
    with connect(server) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)
        found, headers, body = answer(client)
    assert found == status
    assert "Server" not in headers
    assert b"script" not in body
    assert ask(server, get("/healthz"))[0] == 200


def test_a_page_that_fails_tells_the_log_and_not_the_caller(server: HttpServer, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.fails = True
    status, _, body = ask(server, get("/metrics"))
    assert status == 500
    assert b"secret" not in body
    assert "secret" in caplog.text


def test_a_caller_that_sends_slowly_is_cut_off(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_SECONDS", 0.2)
    with connect(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        stop = threading.Event()

        def drip() -> None:
            # Each byte comes well within any limit for one read: only the limit for the whole head ends this.
            with suppress(OSError):
                while not stop.wait(0.02):
                    client.send(b"x")

        feeder = threading.Thread(target=drip)
        feeder.start()
        try:
            assert ends(client)
        finally:
            stop.set()
            feeder.join()


def test_more_callers_than_threads_are_told_so(server: HttpServer) -> None:
    idle = [connect(server) for _ in range(http.MAX_CONNECTIONS)]
    try:
        assert ask_when(server, lambda status: status == 503)
    finally:
        for client in idle:
            client.close()
    assert ask_when(server, lambda status: status == 200)


def ends(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def ask_when(server: HttpServer, wanted: Callable[[int], bool]) -> bool:
    """Ask until the answer is the wanted one: accepting and ending a connection happen on the server's threads, in their own time."""
    for _ in range(10_000):
        with suppress(ConnectionResetError, BrokenPipeError):
            if wanted(ask(server, get("/healthz"))[0]):
                return True
    return False


def test_a_name_is_no_address_to_listen_on(agent: Agent) -> None:
    with pytest.raises(AddressError, match="has no IP address before its port"):
        HttpServer("localhost:0", alive=agent.alive, ready=agent.ready, exposition=agent.exposition)


def test_a_port_in_use_is_named(server: HttpServer, agent: Agent) -> None:
    with pytest.raises(OSError, match=f"cannot listen on {server.address} for HTTP: Address already in use"):
        HttpServer(str(server.address), alive=agent.alive, ready=agent.ready, exposition=agent.exposition)


def test_ipv6(agent: Agent) -> None:
    try:
        server = HttpServer("[::1]:0", alive=agent.alive, ready=agent.ready, exposition=agent.exposition)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    assert ask(server, get("/healthz"))[0] == 200
    server.close()


async def test_a_loop_that_runs_answers_and_one_that_does_not_does_not() -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(event_loop_answers, loop, 30)
    other = asyncio.new_event_loop()
    assert not event_loop_answers(other, 0.001)
    other.close()
    assert not event_loop_answers(other, 30)
