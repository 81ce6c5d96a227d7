"""What every operation works with: made once by the agent, handed to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping.reapers import Reapers

StepName = Literal["resolve", "grace", "boost", "kill", "release", "exit", "total"]
Tell = Callable[[StepName, float], None]
Syscall = Callable[[int], int]


def _silent(_step: StepName, _seconds: float) -> None:
    pass


def _uncounted(_name: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Tools:
    """Threads, system call and listeners.

    ``side``: threads for what must not wait behind stuck reapers: boosts, the search for what holds memory. ``call`` is
    process_mrelease(2): the seam where tests inject what the kernel cannot be made to answer. ``tell`` hears the duration of each step in
    seconds, ``count_error`` the name of each errno.
    """

    reapers: Reapers
    side: Reapers
    can_release: bool
    call: Syscall = process_mrelease
    tell: Tell = _silent
    count_error: Callable[[str], None] = _uncounted
