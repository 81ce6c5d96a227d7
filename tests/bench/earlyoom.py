"""earlyoom made to do the same work: kill one given victim now, and reap it.

It kills the process of the highest oom_score when memory is low. Told that 99 % free is low (`-m 99,99 -s 100,100`) it decides the moment
that it looks; told to ignore every name that does not begin as the bench's victims do, it has nobody else to choose. Its own 10 ms of
start-up and the search do not count: the clock begins with its line "sending SIGKILL to process ...".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from unittest import SkipTest

from bench.contenders import EARLYOOM, Account
from bench.stages import Stage
from mrelease.demo.processes import Child

#: The first that calls process_mrelease(2).
_FIRST = (1, 8)
_SENDING = re.compile(r"sending SIGKILL to process (\d+)")
_RELEASED = re.compile(r"process_mrelease pidfd=\d+ (success|failed: .*)")


def find_earlyoom(program: str | None) -> tuple[str, str]:
    """Return path and version of ``program``, or of the one in PATH. Raises SkipTest where there is none that reaps."""
    path = shutil.which(program or "earlyoom")
    if path is None:
        raise SkipTest(f"not found: {program}" if program else "not installed: earlyoom 1.8 or newer (see --earlyoom)")
    done = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"earlyoom v?(\d+)\.(\d+)\S*", done.stdout + done.stderr)
    if found is None or (int(found[1]), int(found[2])) < _FIRST:
        raise SkipTest(f"{path} is {found[0] if found else 'no earlyoom'}; it reaps since 1.8")
    return path, found[0]


class Earlyoom:
    """One run of earlyoom for each victim, at the agent's priority."""

    name = EARLYOOM
    contained = False

    def __init__(self, program: str) -> None:
        # Everything but the victims is ignored: their names begin with "~", and a name can be empty.
        self._command = [program, "-m", "99,99", "-s", "100,100", "-r", "0", "--ignore", "^[^~]|^$"]
        self._process: Child | None = None

    def prepare(self, stage: Stage, limit: float) -> None:
        """Make sure that the victim is the only process that earlyoom may choose."""
        del limit
        self._pid = stage.pid
        others = [pid for pid in _named_like_victims() if pid != stage.pid]
        if others:
            raise RuntimeError(f"earlyoom could choose another process than the victim: {others}")
        self._lines: list[tuple[float, str]] = []
        self._killed = threading.Event()

    def fire(self) -> None:
        """Start it."""
        read, write = os.pipe()
        self._process = Child("exec", *self._command, output=write)
        os.close(write)
        self._reader = threading.Thread(target=self._read, args=(read,), name="earlyoom", daemon=True)
        self._reader.start()

    def account(self) -> Account:
        """End it and read what it said."""
        self.close()
        said = [(at, found[1]) for at, line in self._lines if (found := _SENDING.search(line))]
        if not said or int(said[0][1]) != self._pid:
            return Account(verdict="did not kill")
        released = next(((at, found[1]) for at, line in self._lines if (found := _RELEASED.search(line))), None)
        success = released is not None and released[1] == "success"
        return Account(
            origin=said[0][0],
            release_seconds=released[0] - said[0][0] if released is not None and success else None,
            verdict="process_mrelease " + ("not called" if released is None else released[1]),
        )

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process = None
            self._reader.join()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, errors="replace") as lines:
            for line in lines:
                self._lines.append((time.monotonic(), line))


def _named_like_victims() -> list[int]:
    found: list[int] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:
            if file.read().startswith("~"):
                found.append(int(name))
    return found
