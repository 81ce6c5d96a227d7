"""A real agent in a process of its own, on a Unix socket in a private directory."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrelease import Client
from support import patience

PATIENCE = 30.0 * patience.FACTOR
#: Victims of tests are one command of one user in one cgroup, made again when one has been killed: just what this limit is for.
UNLIMITED = ("--max-kills-per-target", "0")


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent; ``log`` is what it wrote to standard error so far."""

    address: str
    process: subprocess.Popen[bytes]
    _log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def path(self) -> Path:
        return Path(self.address.removeprefix("unix://"))

    @property
    def log(self) -> str:
        return self._log.read_text()

    def client(self) -> Client:
        return Client(self.address)

    def terminate(self) -> int:
        """SIGTERM, and the exit status when it has drained."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def agent_command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "mrelease_agent", *flags]


@contextlib.contextmanager
def running_agent(folder: Path, *flags: str, prefix: Sequence[str] = (), user: int | None = None) -> Generator[Agent, None, None]:
    """Start an agent in ``folder`` (mode 0700), wait until it says that it is ready, and terminate it at the end.

    ``prefix`` is put before the command (a seccomp launcher), ``user`` runs it as that user id.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(folder, user, user)
    address = f"unix://{folder / 'agent.sock'}"
    log = folder / "log"
    with notify_socket(folder / "notify", user) as notify, log.open("wb") as stderr:
        process = subprocess.Popen(
            [*prefix, *agent_command("--listen", address, *UNLIMITED, *flags)],
            stderr=stderr,
            env={**clean_environment(), "NOTIFY_SOCKET": str(folder / "notify")},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        agent = Agent(address, process, log)
        try:
            await_ready(agent, notify)
            yield agent
        finally:
            agent.terminate()


def clean_environment() -> dict[str, str]:
    """The environment without what configures an agent or client of the person who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MRELEASE_") and name != "RUNTIME_DIRECTORY"}


@contextlib.contextmanager
def notify_socket(path: Path, user: int | None = None) -> Generator[socket.socket, None, None]:
    """A socket as systemd has it for NOTIFY_SOCKET, sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path.unlink(missing_ok=True)  # an agent was started in this folder before
        receiver.bind(str(path))
        if user is not None:
            os.chown(path, user, user)
        yield receiver


def await_ready(agent: Agent, notify: socket.socket) -> None:
    """Wait for READY=1, or fail with what the agent said when it ended instead."""
    exited = os.pidfd_open(agent.pid)
    try:
        ready, _, _ = select.select([notify.fileno(), exited], [], [], PATIENCE)
    finally:
        os.close(exited)
    assert ready, f"the agent was not ready within {PATIENCE:g} s: {agent.log}"
    assert notify.fileno() in ready, f"the agent ended: {agent.log}"
    assert notify.recv(4096).startswith(b"READY=1")
