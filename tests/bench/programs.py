"""The bench's C programs, compiled, and processes that run them."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

from mrelease.demo.interrupts import uninterrupted

_PATIENCE = 60.0
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the compiled programs; ``static`` says whether ``victim`` runs in a root without libraries."""

    victim: Path
    floor: Path
    floor_set: Path
    static: bool


def compile_programs(folder: Path) -> Programs:
    """Compile into ``folder``. Raises SkipTest where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise SkipTest(
            "no C compiler, and everything that is measured here runs C programs: on Debian and Ubuntu: apt install gcc libc6-dev"
        )

    def build(name: str, *flags: str) -> bool:
        source = Path(__file__).with_name(f"{name}.c")
        command = [compiler, "-O2", "-Wall", "-Wextra", *flags, "-o", str(folder / name), str(source)]
        return subprocess.run(command, check=not flags, capture_output=bool(flags)).returncode == 0

    static = build("victim", "-static")
    if not static:  # no static C library
        build("victim")
    build("floor")
    build("floor_set")
    return Programs(folder / "victim", folder / "floor", folder / "floor_set", static)


class Started:
    """A running program with its pidfd. ``end`` is safe at any time, also twice."""

    def __init__(self, command: Iterable[str | Path | int]) -> None:
        self._process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._heard = b""

    def order(self, text: str = "") -> None:
        """Send the line that it waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    def hear(self, seconds: float = _PATIENCE) -> list[str]:
        """Return the words of its next line. Raises RuntimeError where it ends instead, TimeoutError after ``seconds``."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            if not wait_readable(fd, seconds):
                raise TimeoutError(f"waited {seconds:g} s for a line of process {self.pid}")
            more = os.read(fd, 65536)
            if not more:
                raise RuntimeError(f"process {self.pid} ended without a word")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode().split()

    def kill(self) -> None:
        """Send SIGKILL; an exited process gets none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def end(self) -> None:
        """End and reap it. Raises TimeoutError where it does not end."""
        if self.pidfd < 0:
            return
        self.kill()
        exited = wait_readable(self.pidfd, _END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        pidfd, self.pidfd = self.pidfd, -1
        os.close(pidfd)
        if not exited:
            raise TimeoutError(f"process {self.pid} does not end")
        self._process.wait()


@contextmanager
def running(command: Iterable[str | Path | int]) -> Generator[Started, None, None]:
    """A program for as long as the context lasts."""
    started: Started | None = None
    try:
        with uninterrupted():
            started = Started(command)
        yield started
    finally:
        if started is not None:
            with uninterrupted():
                started.end()


def wait_readable(fd: int, seconds: float) -> bool:
    """Wait until ``fd`` is readable: a pidfd, when its process has exited."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
