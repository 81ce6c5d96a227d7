"""A process of the lab: started, told what to do over a pipe, heard over another, and ended whatever happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cgroups import Cgroup
from .kernel import PATIENCE, Unavailable, wait_readable

SCRIPTS = Path(__file__).parent / "victims"
MIB = 1 << 20
Wrap = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Victim:
    """A process that is there to be killed. The lab reaps it and closes the pidfd at the end of the context."""

    pid: int
    size_bytes: int
    """Private anonymous memory that it has written to, in bytes (the interpreter's own comes on top)."""
    pidfd: int
    """Owned by the lab."""

    def kill(self) -> None:
        """Sends SIGKILL; nothing happens where the process is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def exited(self, seconds: float = PATIENCE) -> bool:
        """Waits until every thread has exited; false when that took longer."""
        return wait_readable(self.pidfd, seconds)


class Child:
    """A running script of `victims/`. `close` kills it, and raises when it does not end."""

    def __init__(self, script: str, options: dict[str, Any], pass_fds: Sequence[int] = (), wrap: Wrap = list) -> None:
        command = wrap([sys.executable, "-E", "-s", "-S", str(SCRIPTS / script), json.dumps(options)])
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, pass_fds=pass_fds
        )
        self._heard = b""
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)

    def order(self, order: str, **arguments: object) -> None:
        """Tells the victim what to do."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")

    def hear(self, awaited: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Returns the next thing that the child says.

        Raises TimeoutError naming what was awaited, Unavailable when the child says that the kernel refused, and RuntimeError when
        it ended instead.
        """
        assert self._process.stdout
        fd = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._heard:
            if not wait_readable(fd, deadline - time.monotonic()):
                raise TimeoutError(f"waited {seconds:g} s for process {self.pid}: {awaited}")
            more = os.read(fd, 65536)
            if not more:
                raise RuntimeError(f"process {self.pid} ended before: {awaited}")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise Unavailable(f"{awaited}: {said.get('text') or os.strerror(said['error'])}")
        return said

    def ask(self, order: str, **arguments: object) -> dict[str, Any]:
        """Tells the victim what to do and returns what it says then."""
        self.order(order, **arguments)
        return self.hear(order)

    def hang_up(self) -> None:
        """Closes the child's stdin: its sign to end."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def reap(self) -> None:
        """Waits for the exit and reaps."""
        if not wait_readable(self.pidfd):
            raise TimeoutError(f"waited {PATIENCE:g} s for the exit of process {self.pid}: {self._last_words()}")
        self._process.wait()

    def _last_words(self) -> str:
        """What keeps it, as the kernel says."""
        said: list[str] = []
        for name in ("status", "wchan"):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{self.pid}/{name}").read_text().splitlines()
                said += [
                    line for line in lines if name == "wchan" or line.startswith(("State", "TracerPid", "Threads", "SigPnd", "ShdPnd"))
                ]
        return "; ".join(said)

    def death_signal(self) -> int:
        """Waits for the exit and returns the signal that it died of, 0 when there was none."""
        self.reap()
        return max(0, -self._process.returncode)

    def close(self, *, kill: bool = True) -> None:
        """Ends and reaps the child, closes its pipes and the pidfd."""
        try:
            self.hang_up()
            if kill:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.reap()
        finally:
            assert self._process.stdout
            self._process.stdout.close()
            os.close(self.pidfd)


@contextlib.contextmanager
def started(script: str, *, kill: bool = True, pass_fds: Sequence[int] = (), wrap: Wrap = list, **options: Any) -> Generator[Child]:
    """Starts a script of `victims/` and ends it; without `kill` it is only told to end, by the end of its stdin.

    `wrap` makes the command line from the script's; `options` go to the script.
    """
    child = Child(script, options, pass_fds, wrap)
    try:
        yield child
    finally:
        child.close(kill=kill)


@contextlib.contextmanager
def holding(size: int = 16 * MIB, *, within: Iterable[Cgroup] = (), **options: Any) -> Generator[tuple[Child, Victim, dict[str, Any]]]:
    """A victim that has taken `size` bytes, what it can be told, and what it said of itself.

    It enters the groups of `within` first: memory stays charged to the group in which it was taken.
    """
    cgroups = [str(group.path / "cgroup.procs") for group in within]
    with started("victim.py", anon=size, cgroups=cgroups, **options) as child:
        facts = child.hear(f"memory taken ({options or size})")
        yield child, Victim(child.pid, size, child.pidfd), facts
