"""sd_notify(3) against a real datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest

from mrelease_agent.telemetry.systemd import keep_alive, notify, watchdog_interval


@pytest.mark.parametrize("abstract", [False, True])
def test_the_manager_receives_the_state(abstract: bool, tmp_path: Path) -> None:
    name = f"mrelease-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind("\0" + name if abstract else name)
        assert notify("READY=1\nSTATUS=serving", {"NOTIFY_SOCKET": "@" + name if abstract else name})
        assert manager.recv(100) == b"READY=1\nSTATUS=serving"


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    for address in ("", "relative", "vsock:2:1234", str(tmp_path / "absent"), "/" + "x" * 200, "/a\0b"):
        assert not notify("READY=1", {"NOTIFY_SOCKET": address})


def test_a_manager_that_does_not_read_does_not_stop_the_agent(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        while notify("READY=1", {"NOTIFY_SOCKET": path}):
            pass


async def test_the_watchdog_hears_of_a_loop_that_answers_and_of_no_other(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        loop = asyncio.get_running_loop()
        pings = loop.create_task(keep_alive({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000"}))
        for _ in range(3):
            assert await asyncio.wait_for(loop.sock_recv(manager, 100), 30) == b"WATCHDOG=1"
        with contextlib.suppress(BlockingIOError):
            while manager.recv(100):
                pass
        threading.Event().wait(0.01)  # the loop hangs for several intervals: nobody says that it answers
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        pings.cancel()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
    ],
)
async def test_who_is_watched(environ: dict[str, str], seconds: float) -> None:
    assert watchdog_interval(environ) == seconds
    if not seconds:
        await asyncio.wait_for(keep_alive(environ), 30)
