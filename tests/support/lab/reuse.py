"""Forced reuse of a pid."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from .child import Child, started


class PidReuse:
    """Makes small sleeping processes and hands a pid from one to the next. The processes are reaped for the caller."""

    def __init__(self, forker: Child) -> None:
        self._forker = forker

    def spawn(self) -> int:
        """Makes a process under a pid far from those that the kernel is about to give away. Unavailable without the privilege."""
        return int(self._forker.ask("spawn")["pid"])

    def reuse(self, pid: int) -> None:
        """Kills and reaps the process and makes a new one with the same pid; takes well under a clock tick."""
        self._forker.ask("reuse", pid=pid)

    def end(self, pid: int) -> None:
        """Kills and reaps the process: the pid is free. The process must be alive, or dead and not yet reaped."""
        self._forker.ask("end", pid=pid)


@contextlib.contextmanager
def pid_reuse() -> Generator[PidReuse]:
    """Processes with chosen pids; processes made elsewhere meanwhile do not disturb.

    Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN (clone3(2), set_tid).
    """
    with started("forker.py", kill=False) as forker:
        yield PidReuse(forker)
