"""One attack on an agent, in a process of its own so that it costs the test nothing: it goes on until its stdin ends.

`python -m support.attacker KIND ADDRESS [USER GROUP]`; ADDRESS is a path or a TCP port of 127.0.0.1. Each line that it writes is a round
that is done.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from support import http2
from support.http2 import DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, frame

_HALF_MIB = 512 * 1024
# As in raw, which imports gRPC: most attackers need none.
_KILL = "/mrelease.v1.ReleaseService/KillAndRelease"
_LIST = "/mrelease.v1.NodeService/ListProcesses"
_GET_NODE = "/mrelease.v1.NodeService/GetNode"


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack that is going on."""

    process: subprocess.Popen[str]

    def wait_rounds(self, count: int) -> None:
        """Waits until so many more rounds are done."""
        assert self.process.stdout is not None
        for _ in range(count):
            assert self.process.stdout.readline(), "the attack has ended"


@contextlib.contextmanager
def attack(kind: str, address: str, *user: int) -> Generator[Attack, None, None]:
    """Begin an attack, by another user with a group that it is a member of where they are given, and end it."""
    command = [sys.executable, "-m", "support.attacker", kind, address, *map(str, user)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Attack(process)
        process.kill()


def connect(address: str) -> socket.socket:
    """A connection, made again until the agent takes it."""
    while True:
        end = socket.socket(socket.AF_INET if address.isdigit() else socket.AF_UNIX)
        try:
            end.connect(("127.0.0.1", int(address)) if address.isdigit() else address)
        except OSError:
            end.close()
            continue
        end.setblocking(False)
        return end


def send(end: socket.socket, data: bytes) -> bool:
    """Send all of it and read what comes, for an agent that gets no further would not be attacked; False: it has hung up."""
    view = memoryview(data)
    try:
        while view:
            readable, writable, _ = select.select([end], [end], [])
            if readable and not end.recv(1 << 20):
                return False
            if writable:
                view = view[end.send(view[: 1 << 16]) :]
    except (BlockingIOError, InterruptedError):
        return True
    except OSError:
        return False
    return True


def said() -> None:
    """A round is done."""
    os.write(1, b".\n")


def flood(address: str, begin: bytes, round_: Callable[[int], bytes]) -> None:
    """Round after round on one connection, and on another one when the agent hangs up."""
    while True:
        end = connect(address)
        number, on = 0, send(end, begin)
        while on:
            on = send(end, round_(number))
            number += 1
            said()
        said()
        end.close()


def hold(address: str, connections: int, data: bytes) -> None:
    """Connections on which nothing more comes after ``data``; those that the agent closes are made again."""
    poll = select.epoll()
    held: dict[int, socket.socket] = {}

    def one() -> None:
        end = socket.socket(socket.AF_INET if address.isdigit() else socket.AF_UNIX)
        end.settimeout(10)
        with contextlib.suppress(OSError):
            end.connect(("127.0.0.1", int(address)) if address.isdigit() else address)
            end.sendall(data)
        end.setblocking(False)
        held[end.fileno()] = end
        with contextlib.suppress(OSError):
            poll.register(end, select.EPOLLRDHUP | select.EPOLLHUP)

    for _ in range(min(connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100)):
        one()
    said()
    while True:
        gone = poll.poll(0.1, 200)
        for fd, _ in gone:
            held.pop(fd).close()
        for _ in gone:
            one()
        said()


def streams(number: int, count: int, make: Callable[[int], bytes]) -> bytes:
    """``count`` streams of round ``number``, each begun by ``make``."""
    first = 1 + 2 * number * count
    return b"".join(make(stream) for stream in range(first, first + 2 * count, 2))


def large(address: str) -> None:
    """Requests of 4 MiB, and of the most that is read, from 16 callers at once."""
    from support import raw

    target = f"127.0.0.1:{address}" if address.isdigit() else f"unix://{address}"

    def one() -> None:
        while True:
            with raw.caller(target) as call:
                for size in (4 << 20, _HALF_MIB - 1024) * 4:
                    request = raw.process(1) + raw.field(6, "x" * size)
                    calls = [call.start(_KILL, request) for _ in range(8)]
                    for flying in calls:
                        call.finish(flying)
                    said()

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()


def _metadata(stream: int) -> bytes:
    block = http2.headers(_GET_NODE, **{f"x{number}": "y" * 16000 for number in range(64)})
    parts = [block[at : at + 16384] for at in range(0, len(block), 16384)]
    return frame(HEADERS, 0, stream, parts[0]) + b"".join(
        frame(9, END_HEADERS if part is parts[-1] else 0, stream, part) for part in parts[1:]
    )


def _unfinished(stream: int) -> bytes:
    """A call whose request has begun: 7 KiB of the half a MiB that it says it has."""
    return http2.begin(stream, _KILL) + frame(DATA, 0, stream, b"\0" + _HALF_MIB.to_bytes(4, "big") + bytes(7000))


KINDS: dict[str, Callable[[str], None]] = {
    "idle": lambda address: hold(address, 10_000, b""),
    "crowd": lambda address: hold(address, 1_500, b""),
    "idle-http2": lambda address: hold(address, 10_000, http2.PREFACE),
    "half-preface": lambda address: hold(address, 300, http2.PREFACE[:9]),
    "half-headers": lambda address: hold(address, 300, http2.PREFACE + http2.begin(1, _KILL)[:-20]),
    "half-request": lambda address: hold(address, 300, http2.PREFACE + _unfinished(1)),
    "half-requests": lambda address: hold(address, 10, http2.PREFACE + streams(0, 200, _unfinished)),
    "never-reading": lambda address: hold(
        address, 40, http2.PREFACE_NEVER_READING + streams(0, 100, lambda stream: http2.call(stream, _LIST, b""))
    ),
    "never-reading-health": lambda address: hold(
        address,
        40,
        http2.PREFACE_NEVER_READING + streams(0, 100, lambda stream: http2.call(stream, "/grpc.health.v1.Health/Watch", b"")),
    ),
    "pings": lambda address: flood(address, http2.PREFACE, lambda _: frame(PING, 0, 0, bytes(8)) * 1000),
    "settings": lambda address: flood(address, http2.PREFACE, lambda _: frame(SETTINGS, 0, 0, http2.setting(4, 65535)) * 1000),
    "reset": lambda address: flood(
        address,
        http2.PREFACE,
        lambda number: streams(number, 500, lambda stream: http2.call(stream, _LIST, b"") + frame(RST_STREAM, 0, stream, http2.CANCEL)),
    ),
    "streams": lambda address: flood(
        address, http2.PREFACE, lambda number: streams(number, 1000, lambda stream: http2.begin(stream, _KILL))
    ),
    "metadata": lambda address: flood(address, http2.PREFACE, lambda number: streams(number, 4, _metadata)),
    "large": large,
}


if __name__ == "__main__":
    attack_kind, where, *become = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if attack_kind == "large":
        importlib.import_module("support.raw")  # from where only root may read
    if become:
        os.setgroups([int(become[1])])
        os.setresgid(int(become[0]), int(become[0]), int(become[0]))
        os.setresuid(int(become[0]), int(become[0]), int(become[0]))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    KINDS[attack_kind](where)
