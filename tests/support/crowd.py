"""Many small processes at once, with memory of their own; also held at their exit, so that all of them can be released.

One process makes them all by fork(2) and traces them: cheaper by far than an interpreter and a tracing thread for each. Run as a
program, this file is that process: one JSON line on stdin, one on stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

_SEIZE, _DETACH, _TRACE_EXIT, _EVENT_EXIT, _WALL = 0x4206, 17, 0x40, 6, 0x40000000  # linux/ptrace.h, wait(2)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Crowd:
    """Live processes of ``size_bytes`` each."""

    pids: list[int]
    size_bytes: int
    _process: subprocess.Popen[str]

    def kill_and_hold(self) -> None:
        """Kill all; each stands at its exit, before exit_mm, until the end of the context."""
        self._ask("hold")

    def _ask(self, order: str, **more: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"order": order, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the crowd ended at {order}"
        return json.loads(line)


@contextlib.contextmanager
def crowd(count: int, size: int) -> Generator[Crowd, None, None]:
    """``count`` processes that sleep and hold ``size`` bytes each; all are killed and reaped at the end."""
    with subprocess.Popen(
        [sys.executable, "-E", "-s", "-S", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yielded = Crowd([], size, process)
        yielded.pids.extend(yielded._ask("make", count=count, size=size))  # pyright: ignore[reportPrivateUsage]
        yield yielded


class _Maker:
    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.alive: set[int] = set()
        self.held: set[int] = set()

    def make(self, count: int, size: int) -> list[int]:
        ready_read, ready_write = os.pipe()
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                self.live(size, ready_write)
            self.alive.add(pid)
        for _ in range(count):
            os.read(ready_read, 1)
        return sorted(self.alive)

    def live(self, size: int, ready: int) -> None:
        self.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area[:] = b"\x5a" * size
        os.write(ready, b"x")
        while True:
            signal.pause()

    def hold(self) -> int:
        for pid in self.alive:
            if self.libc.ptrace(ctypes.c_long(_SEIZE), ctypes.c_long(pid), None, ctypes.c_void_p(_TRACE_EXIT)) < 0:
                raise OSError(ctypes.get_errno(), "PTRACE_SEIZE")
        for pid in self.alive:
            os.kill(pid, signal.SIGKILL)
        while self.alive != self.held:
            pid, status = os.waitpid(-1, _WALL)
            assert status >> 16 == _EVENT_EXIT, status
            self.held.add(pid)
        return len(self.held)

    def end(self) -> None:
        for pid in self.alive - self.held:
            os.kill(pid, signal.SIGKILL)
        for pid in self.held:
            self.libc.ptrace(ctypes.c_long(_DETACH), ctypes.c_long(pid), None, None)
        for pid in self.alive:
            os.waitpid(pid, _WALL)

    def obey(self, order: str, **arguments: int) -> object:
        return self.make(**arguments) if order == "make" else self.hold()


def _main() -> None:
    maker = _Maker()
    try:
        while line := sys.stdin.readline():
            print(json.dumps(maker.obey(**json.loads(line))), flush=True)
    finally:
        maker.end()


if __name__ == "__main__":
    _main()
