"""Victim: one process while it is killed and released, with what every step of that needs to know of it."""

from __future__ import annotations

import time

from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.exits import Exit
from mrelease_agent.reaping.proving import Proving
from mrelease_agent.reaping.report import Plan, Report


class Victim:
    """A process, what is to be done with it, what is known so far, whether it has exited, and the clock. Times by time.monotonic()."""

    __slots__ = ("deadline", "exit", "plan", "proving", "ref", "report")

    def __init__(self, ref: ProcessRef, plan: Plan) -> None:
        self.ref = ref
        self.plan = plan
        self.report = Report(ref.identity)
        self.proving = Proving(ref, self.report)
        self.exit = Exit(ref.fd, self._exited)
        self.deadline = 0.0

    @property
    def exited(self) -> bool:
        """Whether it has exited."""
        return bool(self.exit.at)

    @property
    def remaining(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def start_clock(self) -> None:
        """The signal comes now; after the one of a grace period, SIGKILL does."""
        start, self.proving.start = self.proving.start, time.monotonic()
        if start:
            self.report.grace_duration = self.proving.start - start
        self.report.kill_time = time.time()
        self.deadline = self.proving.start + self.plan.timeout

    def _exited(self) -> None:
        start = self.proving.start
        self.report.exit_duration = max(0.0, self.exit.at - start) if start else None
