"""A process that does something of its own when it is asked to end: for grace periods."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

#: argv: signal name, what to do about it (exit, ignore), bytes of memory, cgroup.procs files to join. Says each signal on stdout.
_PROGRAM = """
import os, signal, sys
name, what, size, *groups = sys.argv[1:]
for group in groups:
    with open(group, "w") as file:
        file.write("0")
memory = bytearray(int(size))
for at in range(0, len(memory), 4096):
    memory[at] = 1
def handle(number, frame):
    os.write(1, (signal.Signals(number).name + "\\n").encode())
    if what == "exit":
        os._exit(0)
signal.signal(signal.Signals[name], handle)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """The process; ``said()`` is what it has said of signals, all of it when it is dead."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> list[str]:
        """Wait until it is dead; the names of the signals that it handled."""
        assert self.process.stdout is not None
        return self.process.stdout.read().split()


@contextlib.contextmanager
def handler(
    name: str = "SIGTERM", what: str = "exit", size: int = 4 << 20, within: list[Path] | None = None
) -> Generator[Asked, None, None]:
    """A process with ``size`` bytes that exits on the signal, or ignores it; ``within``: folders of cgroups that it joins."""
    groups = [str(group / "cgroup.procs") for group in within or []]
    with subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _PROGRAM, name, what, str(size), *groups], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        fd = os.pidfd_open(process.pid)
        try:
            yield Asked(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)
