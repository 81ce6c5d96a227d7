"""An agent of the demo's own, on a Unix socket that nobody else can reach."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.processes import Child, SceneError

_READY_SECONDS = 15.0
_POLL_SECONDS = 0.01
# 107 bytes, unix(7), less "/mrelease-demo-12345678/agent.sock"
_LONGEST_DIRECTORY = 73


class PrivateAgent:
    """An ``mrelease-agent`` in a temporary directory. A context manager: removes all of it on leaving."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._child: Child | None = None

    def __enter__(self) -> PrivateAgent:
        if importlib.util.find_spec("mrelease_agent") is None:
            raise SceneError("the agent is not installed: pip install 'mrelease[agent]'")
        with uninterrupted():
            self._directory = Path(tempfile.mkdtemp(prefix="mrelease-demo-", dir=_short_directory()))
            # What is set for another agent is not meant for this one.
            foreign = ("NOTIFY_SOCKET", "RUNTIME_DIRECTORY")
            environment = {name: value for name, value in os.environ.items() if not name.startswith("MRELEASE_") and name not in foreign}
            program = (sys.executable, "-m", "mrelease_agent", "--listen", self.address)
            with self._log.open("wb") as output:
                self._child = Child("exec", *program, output=output, environment=environment)
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            if self._child is not None:
                self._child.end(signal.SIGTERM)
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    def wait_ready(self) -> None:
        """Wait until the agent takes connections. Raises SceneError with what it said last where it ends instead, or after 15 s."""
        assert self._child is not None
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(self._socket):
            if self._child.has_exited(_POLL_SECONDS) or time.monotonic() > deadline:
                said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise SceneError("the agent did not start" + (f": {said[-1]}" if said else ""))

    @property
    def address(self) -> str:
        """What a client connects to."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """The agent's process id."""
        assert self._child is not None
        return self._child.pid

    @property
    def _socket(self) -> Path:
        assert self._directory is not None
        return self._directory / "agent.sock"

    @property
    def _log(self) -> Path:
        return self._socket.with_name("log")


def _answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


def _short_directory() -> str | None:
    """A directory in which a socket's path is not too long for unix(7): the usual one, or /tmp."""
    return None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_DIRECTORY else "/tmp"  # noqa: S108 - mkdtemp makes it 0700
