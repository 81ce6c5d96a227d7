"""A robust mutex shared by processes: its holder is the victim, and somebody alive waits for it (pthread_mutexattr_setrobust(3))."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from dataclasses import dataclass

from .child import MIB
from .native import compiled

OWNER_DIED = "owner-died"
"""The waiter has the mutex: pthread_mutex_lock(3) returned EOWNERDEAD."""
HUNG = "hung"
"""The waiter sleeps, and nobody is left who would wake it."""


@dataclass(frozen=True, slots=True)
class RobustMutex:
    """A process that forks a holder and a waiter for each round."""

    _process: subprocess.Popen[str]

    def hold(self, size: int = MIB, threads: int = 1) -> int:
        """A victim with `size` bytes of private memory, the last of whose `threads` holds the mutex; its pid when the waiter sleeps."""
        return int(self._ask(f"hold {size} {threads}"))

    def outcome(self) -> str:
        """What became of the waiter when the victim, which somebody has killed, has been reaped: OWNER_DIED or HUNG."""
        return self._ask("outcome").split()[0]

    def _ask(self, order: str) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the maker of robust mutexes ended at: {order}")
        return answer


@contextlib.contextmanager
def robust_mutex() -> Generator[RobustMutex]:
    """Makes rounds of a holder and a waiter; both die with it."""
    with (
        compiled("robust_mutex.c") as program,
        subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process,
    ):
        try:
            yield RobustMutex(process)
        finally:
            process.kill()
