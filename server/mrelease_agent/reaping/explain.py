"""What is said of a process beside what holds its memory, which held.py says: one sentence each, for the person who reads the result."""

from __future__ import annotations

from typing import Final

from mrelease_agent.reaping.outcome import Unreleased
from mrelease_agent.reaping.report import Report

NOT_DYING: Final = "it is alive, and Release never kills"
NOT_PERMITTED: Final = "the agent's user may not signal it"
REMEDY_NOT_PERMITTED: Final = "run the agent as root or with CAP_KILL, or as the user of the process"
COPY_ON_WRITE: Final = "the process gave its pages up, but relatives by fork(2) have part of them, too, or that part is charged elsewhere"


def unreleased(report: Report) -> None:
    """Add what no death gives back at once: shared memory, and hugetlb pages until the exit."""
    if report.before is None:
        return
    if report.before.shmem:
        report.unreleased[Unreleased.SHMEM] = report.before.shmem
    if report.after is not None and report.after.hugetlb:
        report.unreleased[Unreleased.HUGETLB] = report.after.hugetlb
