"""A process target: its pid to a process reference, with the identity that the caller gave verified."""

from __future__ import annotations

from dataclasses import dataclass

from mrelease_agent.linux.process import ProcessRef


@dataclass(frozen=True, slots=True)
class IdentityMismatchError(Exception):
    """Another process has the pid: ``field`` differs."""

    field: str
    expected: int
    actual: int


def resolve(pid: int, *, pidfd_inode: int = 0, start_time_ticks: int = 0) -> ProcessRef:
    """Open a reference to the process with ``pid`` and compare what else is known of it; 0 is not compared.

    Raises ProcessGoneError, NotALeaderError, IdentityMismatchError, OSError (limits of the agent's process).
    """
    ref = ProcessRef.open(pid)
    for field, expected, actual in (
        ("pidfd_inode", pidfd_inode, ref.inode),
        ("start_time_ticks", start_time_ticks, ref.stat.start_time),
    ):
        if expected and expected != actual:
            ref.close()
            raise IdentityMismatchError(field, expected, actual)
    return ref
