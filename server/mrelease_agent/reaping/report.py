"""What an operation on one process found out: plain values, turned into the contract's messages by the rpc room."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from mrelease_agent.linux.process import Identity
from mrelease_agent.linux.procfs import Memory
from mrelease_agent.reaping.outcome import Boost, HeldCause, Outcome, Proof, Step, Unreleased


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with one process. Times in seconds.

    ``grace``: how long it may end by itself after ``signal``; 0: SIGKILL at once. ``timeout`` begins after it.
    """

    kill: bool
    wait_for_exit: bool
    timeout: float
    reap_delay: float
    grace: float = 0.0
    signal: int = signal.SIGTERM
    boost: Boost = Boost.UNSPECIFIED


@dataclass(slots=True)
class Report:
    """The result for one process, filled in while the operation goes on. Times in seconds; ``kill_time`` since the epoch.

    For who wants to know where the time went, in seconds from ``kill_time``: the signal was sent by ``kill_duration``, process_mrelease(2)
    first called at ``reap_begin``; by ``settled`` it was known whether the memory is back, by ``concluded`` why not.
    ``grace_duration`` is before ``kill_time``.
    """

    process: Identity
    outcome: Outcome = Outcome.HELD
    step: Step = Step.RESOLVE
    errno: int = 0
    before: Memory | None = None
    after: Memory | None = None
    released: int = 0
    proof: Proof = Proof.NONE
    unreleased: dict[Unreleased, int] = field(default_factory=dict[Unreleased, int])
    kill_time: float = 0.0
    release_duration: float | None = None
    exit_duration: float | None = None
    attempts: int = 0
    cause: str = ""
    remedy: str = ""
    state: str = ""
    wchan: str = ""
    sharers: list[int] = field(default_factory=list[int])
    cgroup_path: str | None = None
    cgroup_before: int = 0
    cgroup_after: int = 0
    boost: Boost = Boost.UNSPECIFIED
    held_cause: HeldCause = HeldCause.UNSPECIFIED
    tracer: int = 0
    readers: list[int] = field(default_factory=list[int])
    grace_duration: float | None = None
    kill_duration: float | None = None
    reap_begin: float | None = None
    settled: float | None = None
    concluded: float | None = None


@dataclass(frozen=True, slots=True)
class Charge:
    """What is charged to a cgroup with all below it, in bytes: before the first signal and after; None where it is gone."""

    path: str
    before: int
    after: int | None
    shmem: int


@dataclass(frozen=True, slots=True)
class Done:
    """A finished operation on a target: its processes, and for a container, pod or cgroup the charges."""

    reports: list[Report]
    charges: list[Charge] = field(default_factory=list[Charge])
    #: Bytes of anonymous memory that stay charged although every process has given its memory back: somebody else pins them.
    pinned: int = 0

    @property
    def released(self) -> int:
        """Bytes proven back: of the processes, but no more than the charge fell by, since relatives by fork(2) count shared pages twice."""
        total = sum(report.released for report in self.reports)
        if not self.charges or any(charge.after is None for charge in self.charges):
            return total
        fell = sum(charge.before - (charge.after or 0) for charge in self.charges)
        return min(total, max(0, fell))
