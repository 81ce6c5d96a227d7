"""Tunnels through the API server: bytes both ways, as many as there are and no more than fit, and why not."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from mrelease.errors import NoAgent, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers.kubernetes._login import Choice, log_in
from mrelease.resolvers.kubernetes._tunnel import Tunnels
from support.kube_api import fake_tunnel, write_kubeconfig
from support.lab import until

# Nothing moves any more where so many looks find the same.
_LOOKS = 300


@contextmanager
def tunnels(address: str, tmp_path: Path) -> Generator[Tunnels]:
    made = Tunnels(log_in(Choice(kubeconfig=write_kubeconfig(tmp_path / "config", address, {"token": "secret"}))))
    try:
        yield made
    finally:
        made.close()


def opened(made: Tunnels) -> str:
    return made.open("mrelease", "agent-x", 7443, time.monotonic() + 10)


@contextmanager
def connected(address: str) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(20)
        end.connect(address.removeprefix("unix://"))
        yield end


async def echo(connection: ServerConnection) -> None:
    try:
        async for message in connection:
            assert isinstance(message, bytes)
            assert message[:1] == b"\0", "channel 0 carries data"
            await connection.send(message)
    except ConnectionClosed:
        pass


def everything(end: socket.socket) -> bytes:
    found = b""
    while part := end.recv(1 << 16):
        found += part
    return found


def test_bytes_go_both_ways_and_every_connection_is_its_own(tmp_path: Path) -> None:
    with fake_tunnel(echo) as server, tunnels(server, tmp_path) as made:
        address = opened(made)
        with connected(address) as first, connected(address) as second:
            first.sendall(b"one")
            second.sendall(b"two")
            assert first.recv(10) == b"one"
            assert second.recv(10) == b"two"


def test_a_megabyte_arrives_whole(tmp_path: Path) -> None:
    sent = os.urandom(1 << 20)
    with fake_tunnel(echo) as server, tunnels(server, tmp_path) as made, connected(opened(made)) as end:
        import threading

        writer = threading.Thread(target=end.sendall, args=(sent,))
        writer.start()
        got = b""
        while len(got) < len(sent):
            got += end.recv(1 << 16)
        writer.join()
    assert got == sent


def test_who_does_not_read_stops_the_other_end_and_nothing_piles_up_here(tmp_path: Path) -> None:
    sent: list[int] = []

    async def pour(connection: ServerConnection) -> None:
        try:
            while True:
                await connection.send(b"\0" + bytes(32 << 10))
                sent.append(32 << 10)
        except ConnectionClosed:
            pass

    looks: list[int] = []

    def steady() -> bool:
        looks.append(sum(sent))
        return looks[-1] > 0 and len(looks) > _LOOKS and len(set(looks[-_LOOKS:])) == 1

    with fake_tunnel(pour) as server, tunnels(server, tmp_path) as made, connected(opened(made)) as end:
        end.recv(1)
        until(steady, "the pod's end to be stopped")
        # Sockets of the kernel, the queue of messages, one buffer: megabytes, where without a bound there would be gigabytes.
        assert sum(sent) < 64 << 20


def test_the_socket_is_the_users_alone_and_goes(tmp_path: Path) -> None:
    with fake_tunnel(echo) as server, tunnels(server, tmp_path) as made:
        directory = Path(opened(made).removeprefix("unix://")).parent
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not directory.exists()


def test_the_end_of_one_side_is_the_end_of_the_other(tmp_path: Path) -> None:
    async def goodbye(connection: ServerConnection) -> None:
        await connection.send(b"\0bye")

    with fake_tunnel(goodbye) as server, tunnels(server, tmp_path) as made, connected(opened(made)) as end:
        assert everything(end) == b"bye"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, OrchestratorDenied), (403, OrchestratorDenied), (404, ReferenceNotFound), (500, OrchestratorUnavailable)],
)
def test_what_the_api_server_refuses_is_said_at_once(status: int, kind: type[Exception], tmp_path: Path) -> None:
    with (
        fake_tunnel(echo, refuse=(status, "pods is a \x1b[31mproblem")) as server,
        tunnels(server, tmp_path) as made,
        pytest.raises(kind) as caught,
    ):
        opened(made)
    assert "\x1b" not in str(caught.value)


def test_what_the_node_says_is_kept_for_who_asks_why(tmp_path: Path) -> None:
    async def refused(connection: ServerConnection) -> None:
        await connection.send(b"\x01error forwarding port 7443: connection refused")

    with fake_tunnel(refused) as server, tunnels(server, tmp_path) as made:
        address = opened(made)
        assert made.problem(address) is None
        with connected(address) as end:
            assert everything(end) == b""
        until(lambda: made.problem(address) is not None, "the reason to be known")
        assert isinstance(made.problem(address), NoAgent)
        assert "connection refused" in str(made.problem(address))


def test_a_server_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with tunnels(address, tmp_path) as made, pytest.raises(OrchestratorUnavailable, match="not ready in time"):
            made.open("mrelease", "agent-x", 7443, time.monotonic() + 0.2)


def test_a_tunnel_is_shut_while_others_stay(tmp_path: Path) -> None:
    with fake_tunnel(echo) as server, tunnels(server, tmp_path) as made:
        first, second = opened(made), opened(made)
        with connected(first) as gone, connected(second) as kept:
            for end in (gone, kept):
                end.sendall(b"x")
                assert end.recv(1) == b"x"
            made.shut(first)
            assert everything(gone) == b""
            kept.sendall(b"y")
            assert kept.recv(1) == b"y"


async def test_it_serves_callers_of_an_event_loop_from_a_thread_of_its_own(tmp_path: Path) -> None:
    with fake_tunnel(echo) as server, tunnels(server, tmp_path) as made:
        address = await asyncio.to_thread(opened, made)
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix://"))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
