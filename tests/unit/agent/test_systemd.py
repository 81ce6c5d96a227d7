"""sd_notify(3) against a real datagram socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mrelease_agent.telemetry.systemd import notify


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
