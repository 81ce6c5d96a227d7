"""process_mrelease(2) called by another process: as another user, under a seccomp filter, or where the call may block."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from .child import Child, started
from .seccomp import filtered


class Caller:
    """A process that calls process_mrelease(2) on one pidfd when it is told to."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.pid = child.pid
        self.pidfd = child.pidfd

    def begin(self, *, probe: bool = False) -> None:
        """Starts a call, of the pidfd or of (-1, 0), without waiting for its answer."""
        self._child.order("call", **({"fd": -1} if probe else {}))

    def answer(self) -> int:
        """Waits for the answer to a call: 0 or the errno. Raises RuntimeError when the caller died of it."""
        return int(self._child.hear("the answer of process_mrelease")["errno"])

    def call(self, *, probe: bool = False) -> int:
        """Calls and returns 0 or the errno."""
        self.begin(probe=probe)
        return self.answer()

    def death_signal(self) -> int:
        """Waits for the death of the caller and returns the signal that it died of, 0 when it ended by itself."""
        return self._child.death_signal()


@contextlib.contextmanager
def caller(pidfd: int, *, uid: int | None = None, **seccomp: Any) -> Generator[Caller]:
    """A process that has inherited `pidfd`; `uid` makes it another user, `seccomp` are options of `filtered`."""

    def wrap(command: list[str]) -> list[str]:
        return filtered(command, **seccomp) if seccomp else command

    with started("caller.py", pass_fds=(pidfd,), wrap=wrap, pidfd=pidfd, uid=uid) as child:
        child.hear("the caller is ready")
        yield Caller(child)
