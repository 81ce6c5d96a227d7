"""Child processes of the scene: started, waited for and ended one by one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

_SCRIPT = str(Path(__file__).with_name("child.py"))
_READY_SECONDS = 60.0
_END_SECONDS = 15.0


class SceneError(Exception):
    """The scene cannot be set up here; the message says why and what to do."""


class Child:
    """One child process and its pidfd. ``end`` is safe at any time, also twice."""

    def __init__(self, *arguments: str | int, output: IO[bytes] | int = subprocess.PIPE, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-I", _SCRIPT, str(os.getpid()), *map(str, arguments)]
        errors = subprocess.DEVNULL if output == subprocess.PIPE else subprocess.STDOUT
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=environment)  # noqa: S603
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def go(self) -> None:
        """Send the line that a victim waits for."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def wait_ready(self, what: str) -> None:
        """Wait until the child has said that it is ready. Raises SceneError where it ends or takes a minute."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _READY_SECONDS)
        if not readable or not self._process.stdout.readline():
            raise SceneError(f"{what} did not start: {f'exit status {self._process.poll()}' if readable else 'not ready after a minute'}")

    def has_exited(self, seconds: float = 0.0) -> bool:
        """Whether the process has exited, after waiting for that at most ``seconds``. It is not reaped: its pid stays its own."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, number: signal.Signals) -> None:
        """Send a signal; an exited process gets none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process, by SIGKILL where ``number`` was not enough, and reap it."""
        if self.pidfd < 0:
            return
        self.send(number)
        if number is not signal.SIGKILL and not self.has_exited(_END_SECONDS / 3):
            self.send(signal.SIGKILL)
        exited = self.has_exited(_END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if exited:
            self._process.wait()
        pidfd, self.pidfd = self.pidfd, -1
        os.close(pidfd)


def end_all(children: list[Child]) -> None:
    """End children at once: each is signalled before the first is waited for."""
    for child in children:
        if child.pidfd >= 0:
            child.send(signal.SIGKILL)
    for child in children:
        child.end()


def starve(pid: int) -> None:
    """Give the process CPU time only where nobody else wants it: SCHED_IDLE, sched(7)."""
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def feed(pid: int) -> None:
    """Take SCHED_IDLE back so that a dying process can finish; harmless where that is refused."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


def raise_own_priority() -> None:
    """Put the calling thread before the spinners where that is permitted: who measures must not be starved."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)
