"""Whether the memory of one process is back: what it held before the signal, and what can be read of it after. DESIGN §2.2.

RSS 0 is no proof and neither is ESRCH: memory is back when process_mrelease(2) returned 0 and the memory read after it is gone, when the
charge of a cgroup of the process's own fell, or when it has exited and nobody is left who shares or pins its address space.
"""

from __future__ import annotations

import os
import time
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroups import MemoryCgroup
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.sharing import still_held
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.outcome import HeldCause, Outcome, Proof, Step, Unreleased
from mrelease_agent.reaping.report import Report

#: Bytes that a cgroup's charge may lag: each CPU keeps a stock of up to 64 pages (mm/memcontrol.c, MEMCG_CHARGE_BATCH).
CHARGE_SLACK: Final = 64 * procfs.PAGE_SIZE * (os.cpu_count() or 1)


class Proving:
    """The evidence on one process; what it shows goes into ``report``. ``start`` is the time of the signal, time.monotonic()."""

    def __init__(self, ref: ProcessRef, report: Report) -> None:
        self._ref = ref
        self._report = report
        self.start = 0.0
        #: The memory cgroup of the process; None where it has none to be read, or it is one of many in a target.
        self.cgroup: MemoryCgroup | None = None

    @property
    def reclaimable(self) -> int:
        """Bytes that its death gives back."""
        return self._report.before.reclaimable if self._report.before else 0

    @property
    def tolerance(self) -> int:
        """Bytes that counters may be off: a page for each thread, or 1 %."""
        return max(procfs.PAGE_SIZE * max(1, self._ref.stat.threads), self.reclaimable // 100)

    @property
    def held(self) -> int:
        """Bytes that are not proven back now. Where no thread has the address space any more, all of them: that proves nothing."""
        if self._report.proof is not Proof.NONE:
            return 0
        now = self._ref.memory()
        return self.reclaimable if now is None else min(now.reclaimable, self.reclaimable)

    def reaped(self) -> bool:
        """After a call that returned 0: whether the memory read now is gone."""
        report = self._report
        report.after = self._ref.memory()
        if report.after is None or report.after.reclaimable > self.tolerance:
            return False
        self._prove(Outcome.RELEASED, Proof.RELEASE, Step.RELEASE)
        report.released = max(0, self.reclaimable - report.after.reclaimable)
        return True

    def freed(self) -> bool:
        """Whether the charge of the process's own cgroup fell by what it held."""
        if not self._charge_fell():
            return False
        self._prove(Outcome.EXITED, Proof.CGROUP, Step.EXIT)
        self._report.released = self.reclaimable
        return True

    def exited(self) -> bool:
        """After the exit: whether the memory is back, that is nobody is left who shares or pins the address space."""
        report, group = self._report, self.cgroup
        report.step = Step.EXIT
        report.sharers = [pid for pid in report.sharers if still_held(pid, self.reclaimable // 2)]
        if report.sharers:
            report.outcome, report.held_cause = Outcome.SHARED_MM, HeldCause.SHARED_MM
            return False
        fell = self._charge_fell()
        if not fell and group is not None and group.alone and group.anon() > self.tolerance + CHARGE_SLACK:
            report.outcome, report.held_cause = Outcome.HELD, HeldCause.PINNED
            return False
        self._prove(Outcome.EXITED, Proof.CGROUP if fell else Proof.EXIT, Step.EXIT)
        report.released = self.reclaimable
        return True

    def judge_unproven(self) -> None:
        """The deadline passed: how much is measurably back."""
        report = self._report
        if report.after is not None:
            report.released = max(0, self.reclaimable - report.after.reclaimable)
        elif report.held_cause is HeldCause.PINNED and self._fell > self.tolerance + CHARGE_SLACK:
            report.released = min(self._fell, self.reclaimable)
        if report.outcome in (Outcome.HELD, Outcome.PARTIAL):
            report.outcome = Outcome.PARTIAL if report.released > self.tolerance else Outcome.HELD
        held = self.reclaimable - report.released
        if held > 0:
            report.unreleased[Unreleased.SHARED_MM if report.outcome is Outcome.SHARED_MM else Unreleased.HELD] = held

    def subtract_copy_on_write(self) -> None:
        """Pages inherited by fork(2) leave the process, but the node keeps them for its relatives: they are not counted as released."""
        report, group = self._report, self.cgroup
        if group is None or not group.alone or report.before is None:
            return
        slack = self.tolerance + CHARGE_SLACK
        kept = max(0, report.before.anon - self._charged)
        if kept <= slack:
            kept = 0
        # What its address space had and its cgroup still has, children in other cgroups have inherited.
        left = self._charged - self._fell
        if report.proof is Proof.RELEASE and left > slack and (left := min(left, group.anon())) > slack:
            kept += left
        if kept:
            report.released = max(0, report.released - kept)
            report.unreleased[Unreleased.COPY_ON_WRITE] = kept
            report.cause = explain.COPY_ON_WRITE

    @property
    def _charged(self) -> int:
        """What of the process's memory a cgroup of its own can show: pages inherited by fork(2) are charged where they were touched."""
        group, before = self.cgroup, self._report.before
        if group is None or not group.alone or before is None:
            return 0
        return min(before.anon, group.before)

    def _charge_fell(self) -> bool:
        """Whether the charge of a cgroup of the process's own fell by what it held. Where neighbours live, they may have done it."""
        return self._charged > 0 and self._fell >= self._charged - self.tolerance - CHARGE_SLACK

    @property
    def _fell(self) -> int:
        """By how many bytes the charge of its cgroup has fallen."""
        return self.cgroup.before - self.cgroup.usage() if self.cgroup is not None else 0

    def _prove(self, outcome: Outcome, proof: Proof, step: Step) -> None:
        report = self._report
        report.outcome, report.proof, report.step = outcome, proof, step
        was_held = report.held_cause in (HeldCause.PINNED, HeldCause.SHARED_MM)  # when it had exited
        report.errno, report.held_cause, report.cause, report.remedy = 0, HeldCause.UNSPECIFIED, "", ""
        report.release_duration = time.monotonic() - self.start
        # What was read of its cgroup is as old as the reading, not as the exit: who had pages pinned may have let them go in between.
        asked = self.cgroup is not None and self.cgroup.alone
        if step is Step.EXIT and report.exit_duration is not None and not was_held and not asked:
            report.release_duration = report.exit_duration
