"""Who kills: kill(2) alone, a C program of the same system calls, the agent through the SDK."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mrelease import Client
from mrelease.demo.ready_call import ReadyCall

#: The agent's default.
REAP_DELAY_MS = 5


@dataclass(frozen=True, slots=True)
class Account:
    """A contender's own account. ``origin`` is its first step by ``time.monotonic``, None: the moment it was told to begin."""

    origin: float | None = None
    release_seconds: float | None = None
    call_seconds: float | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is to be killed, and for how many seconds that is watched."""

    pid: int
    pidfd: int
    limit: float


class Contender(Protocol):
    """One way to get a process's memory back, used again and again."""

    name: str

    def prepare(self, target: Target) -> None:
        """Get everything ready that does not belong to the measurement."""
        ...

    def fire(self) -> None:
        """Begin."""
        ...

    def account(self) -> Account:
        """Wait until it has ended and say how it went, in its own words."""
        ...


class KillAlone:
    """SIGKILL, and nothing else."""

    name = "kill(2)"

    def prepare(self, target: Target) -> None:
        """Keep the pidfd."""
        self._pidfd = target.pidfd

    def fire(self) -> None:
        """Send the signal."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def account(self) -> Account:
        """Nothing: kill(2) does not wait."""
        return Account()


class Floor:
    """``floor.c``, started and waiting before it is fired, at the agent's priority."""

    name = "C program"

    def __init__(self, program: Path, nice: int) -> None:
        self._program = program
        self._nice = nice

    def prepare(self, target: Target) -> None:
        """Start the program and wait until it is ready."""
        self._process = subprocess.Popen(
            [self._program, str(target.pid), str(REAP_DELAY_MS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        os.setpriority(os.PRIO_PROCESS, self._process.pid, self._nice)

    def fire(self) -> None:
        """Send the line that it waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def account(self) -> Account:
        """Read what it printed."""
        said = self._process.communicate(timeout=60)[0].split()
        killed, released, error, _ = map(int, said)
        took = (released - killed) / 1e9
        return Account(origin=killed / 1e9, release_seconds=None if error else took, call_seconds=took, verdict=f"errno {error}")


class Agent:
    """The agent by its Unix socket, through the SDK, as a caller uses it."""

    name = "agent"

    def __init__(self, client: Client) -> None:
        self._client = client

    def prepare(self, target: Target) -> None:
        """Start the calling thread."""
        self._call = ReadyCall(self._client, target.pid, target.limit)
        self._call.start()

    def fire(self) -> None:
        """Let it call."""
        self._call.fire()

    def account(self) -> Account:
        """Wait for the answer."""
        self._call.join()
        result = self._call.result
        took = result.processes[0].release_duration if result is not None and result.processes else None
        return Account(
            origin=self._call.called_at,
            release_seconds=None if took is None else took.total_seconds(),
            call_seconds=self._call.took,
            verdict=self._call.failure if result is None else result.verdict.name,
        )


def compile_floor(directory: Path) -> Path | None:
    """Compile ``floor.c``; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    program = directory / "floor"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", program, Path(__file__).with_name("floor.c")], check=True)
    return program
