"""One process: kill, let it exit by itself for a moment, release, prove. DESIGN §4 from "measure" to "verdict".

The event loop only waits here (the pidfd becomes readable, a pause ends); what may block in the kernel runs on a reaper thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroups import MemoryCgroup
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import Memory
from mrelease_agent.linux.sharing import alike_relatives, sharers, still_held
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.outcome import Outcome, Proof, Step, Then, Unreleased, answer
from mrelease_agent.reaping.reapers import NotStartedError, Reapers
from mrelease_agent.reaping.report import Plan, Report

#: Pauses between calls and between looks at the charge, in seconds: the first, and the bound of the doubling.
_FIRST_PAUSE: Final = 0.001
_LAST_PAUSE: Final = 0.1
#: Seconds that a call which the deadline still permits is given to return: an answer says more than the deadline.
_LEAST_CALL: Final = 0.05
#: What the agent's own process may run into at any time: once the signal is out, it goes on and tries again.
LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

Tell = Callable[[Literal["kill", "release", "exit"], float], None]
Syscall = Callable[[int], int]


class NotDyingError(Exception):
    """Release was asked for a process that is alive. Nothing was signalled."""


class LimitError(Exception):
    """The agent's process is at a limit, ``cause``. Nothing was signalled."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Measured:
    """A process before the signal: its memory, and the relatives that may share it."""

    memory: Memory | None
    alike: list[int]


def measure(ref: ProcessRef) -> Measured:
    """Read what an operation has to know before the signal. Raises OSError for limits of the agent's process."""
    return Measured(ref.memory(), alike_relatives(ref.pid, ref.proc, ref.stat.ppid))


class Operation:
    """One kill and release, or release, of one process: run(), or prepare(), begin(), complete() and close(). Owns ``ref``.

    ``measured`` is given for one process of many; then the charge of its memory cgroup is not looked at: it is not its alone.

    ``call`` is process_mrelease(2): the seam where tests inject what the kernel cannot be made to answer. ``tell`` hears the duration
    of each step in seconds.
    """

    def __init__(
        self,
        ref: ProcessRef,
        plan: Plan,
        reapers: Reapers,
        *,
        can_release: bool,
        call: Syscall = process_mrelease,
        tell: Tell = lambda _step, _seconds: None,
        count_error: Callable[[str], None] = lambda _name: None,
        measured: Measured | None = None,
    ) -> None:
        self._ref = ref
        self._plan = plan
        self._reapers = reapers
        self._can_release = can_release
        self._call = call
        self._tell = tell
        self._count_error = count_error
        self._measured = measured
        self._exited = asyncio.Event()
        self._deadline = 0.0
        self._start = 0.0
        self._cgroup: MemoryCgroup | None = None
        self._first_fd = -1
        self._report = Report(ref.identity)

    async def run(self) -> Report:
        """Do it. Raises LimitError, NotDyingError, ProcessLookupError and PermissionError of the signal: then nothing was signalled."""
        try:
            await self.prepare()
            self.begin()
            return await self.complete()
        finally:
            self.close()

    @property
    def report(self) -> Report:
        """What is known so far."""
        return self._report

    def close(self) -> None:
        """Close what is open; harmless when repeated."""
        if self._ref.fd >= 0:
            asyncio.get_running_loop().remove_reader(self._ref.fd)
        self._ref.close()
        if self._first_fd >= 0:
            os.close(self._first_fd)
            self._first_fd = -1
        if self._cgroup is not None:
            self._cgroup.close()

    def _on_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._ref.fd)
        self._report.exit_duration = max(0.0, time.monotonic() - self._start) if self._start else None
        self._exited.set()

    async def prepare(self) -> None:
        """Measure, and open what the first call needs: after the signal it is too late to find that no descriptor is free.

        Raises LimitError.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ref.fd, self._on_exit, loop)
        report = self._report
        try:
            self._first_fd = os.dup(self._ref.fd)
            if self._measured is None:
                self._cgroup = MemoryCgroup.of(self._ref.pid, self._ref.proc)
            measured = self._measured or measure(self._ref)
            report.before = measured.memory
            if measured.alike:
                report.sharers = await self._search_sharers(0.25, measured.alike)
        except OSError as error:
            if error.errno not in LIMITS:
                raise
            raise LimitError(error) from error

    def begin(self) -> None:
        """Send SIGKILL where the plan says so, and start the clock. Raises ProcessLookupError, PermissionError: nothing was signalled."""
        self._report.kill_time = time.time()
        self._start = time.monotonic()
        self._deadline = self._start + self._plan.timeout
        if self._exited.is_set():
            self._report.exit_duration = 0.0
        if self._plan.kill:
            self._ref.send_signal(signal.SIGKILL)
            self._tell("kill", time.monotonic() - self._start)

    async def complete(self) -> Report:
        """Release, prove, report. Raises NotDyingError."""
        report = self._report
        if self._plan.kill:
            report.step = Step.KILL
            await self._wait_exit(min(self._plan.reap_delay, self._remaining))
        await self._release()
        self._tell("release", time.monotonic() - self._start)
        if self._plan.wait_for_exit and report.proof is not Proof.NONE:
            await self._wait_exit(self._remaining)
        if report.exit_duration is not None:
            self._tell("exit", report.exit_duration)
        self._finish()
        return report

    @property
    def _remaining(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def _reclaimable(self) -> int:
        return self._report.before.reclaimable if self._report.before else 0

    @property
    def _tolerance(self) -> int:
        """Bytes that counters may be off: a page for each thread, or 1 %."""
        return max(procfs.PAGE_SIZE * max(1, self._ref.stat.threads), self._reclaimable // 100)

    async def _wait_exit(self, seconds: float) -> bool:
        if not self._exited.is_set() and seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._exited.wait(), seconds)
        return self._exited.is_set()

    async def _search_sharers(self, timeout: float, candidates: list[int] | None = None) -> list[int]:
        proc = os.dup(self._ref.proc)
        pid = self._ref.pid
        try:
            return await self._reapers.run(lambda: sharers(pid, proc, candidates), timeout, lambda: os.close(proc))
        except TimeoutError:
            return []

    async def _reap(self) -> int:
        """Call process_mrelease(2) on a reaper thread; its errno, ETIMEDOUT where it has not returned, EBUSY where no thread was free."""
        fd, self._first_fd = self._first_fd, -1
        if fd < 0:
            fd = os.dup(self._ref.fd)
        self._report.attempts += 1
        try:
            number = await self._reapers.run(lambda: self._call(fd), max(_LEAST_CALL, self._remaining), lambda: os.close(fd))
        except NotStartedError:
            return errno.EBUSY
        except TimeoutError:
            return errno.ETIMEDOUT
        if number:
            self._count_error(errno.errorcode.get(number, str(number)))
        return number

    async def _release(self) -> None:
        """Release until the memory is proven back or the deadline has passed, and leave the outcome in the report."""
        report = self._report
        if not self._can_release:
            if not self._plan.kill and not self._exited.is_set() and not procfs.dying(self._ref.proc):
                raise NotDyingError
            report.outcome, report.cause, report.remedy = Outcome.UNSUPPORTED, explain.UNSUPPORTED, explain.REMEDY_UNSUPPORTED
            await self._await_freed()
            return
        pause = _FIRST_PAUSE
        while not self._exited.is_set():
            report.step = Step.RELEASE
            try:
                if await self._release_once():
                    return
            except OSError as error:
                if error.errno not in LIMITS:
                    raise
            if self._remaining <= 0 or await self._wait_exit(min(pause, self._remaining)):
                break
            pause = min(pause * 2, _LAST_PAUSE)
        await self._await_freed()

    async def _release_once(self) -> bool:
        """One call and what follows from its answer: whether that settled the outcome. Raises OSError for limits."""
        report = self._report
        report.errno = await self._reap()
        if report.errno in (errno.ETIMEDOUT, errno.EBUSY):
            stuck = report.errno == errno.ETIMEDOUT
            report.outcome, report.cause = Outcome.HELD, explain.STUCK if stuck else explain.NO_REAPER
            report.remedy = explain.REMEDY_STUCK if stuck else explain.REMEDY_NO_REAPER
            await self._await_freed()
            return True
        what = answer(report.errno)
        report.outcome, report.cause = what.outcome, what.meaning
        if what.then is Then.MEASURE and self._measured_back():
            return True
        if what.then is Then.DIAGNOSE:
            await self._diagnose()
        if what.then is Then.AWAIT_EXIT or (what.then is Then.MEASURE and report.after is None):
            await self._await_freed()
            return True
        return False

    def _measured_back(self) -> bool:
        """After a call that returned 0: whether the memory read now is gone. No address space to read proves nothing."""
        report = self._report
        report.after = self._ref.memory()
        if report.after is None or report.after.reclaimable > self._tolerance:
            return False
        self._prove(Outcome.RELEASED, Proof.RELEASE, Step.RELEASE)
        report.released = max(0, self._reclaimable - report.after.reclaimable)
        return True

    async def _diagnose(self) -> None:
        """EINVAL: not dying, dumping core, or sharing its address space with the living."""
        report = self._report
        if procfs.core_dumping(self._ref.proc):
            report.outcome, report.cause, report.remedy = Outcome.CORE_DUMPING, explain.CORE_DUMPING, explain.REMEDY_CORE_DUMPING
            return
        found = await self._search_sharers(max(_LEAST_CALL, min(1.0, self._remaining)))
        if not self._plan.kill and not self._exited.is_set() and not procfs.dying(self._ref.proc):
            raise NotDyingError
        if found:
            report.sharers = found
            report.outcome, report.cause, report.remedy = Outcome.SHARED_MM, explain.shared_mm(found), explain.REMEDY_SHARED_MM

    async def _await_freed(self) -> None:
        """Wait until the process has exited or the charge of its cgroup has fallen, or until the deadline."""
        pause = _FIRST_PAUSE
        while True:
            if self._exited.is_set() and self._exit_proves():
                return
            if self._charge_fell():
                self._prove(Outcome.EXITED, Proof.CGROUP, Step.EXIT)
                self._report.released = self._reclaimable
                return
            if self._remaining <= 0:
                return
            if self._exited.is_set():
                await asyncio.sleep(min(pause, max(0.0, self._remaining)))
            else:
                watching = self._cgroup is not None and self._cgroup.alone
                await self._wait_exit(min(pause, self._remaining) if watching else self._remaining)
            pause = min(pause * 2, _LAST_PAUSE)

    @property
    def _charged(self) -> int:
        """What of the process's memory a cgroup of its own can show: pages inherited by fork(2) are charged where they were touched."""
        group, before = self._cgroup, self._report.before
        if group is None or not group.alone or before is None:
            return 0
        return min(before.anon, group.before)

    def _charge_fell(self) -> bool:
        """Whether the charge of a cgroup of the process's own fell by what it held. Where neighbours live, they may have done it."""
        group, charged = self._cgroup, self._charged
        return group is not None and charged > 0 and group.before - group.usage() >= charged - self._tolerance - _CHARGE_SLACK

    def _exit_proves(self) -> bool:
        """After the exit: whether the memory is back, that is nobody is left who shares or pins the address space."""
        report, group = self._report, self._cgroup
        report.step = Step.EXIT
        report.sharers = [pid for pid in report.sharers if still_held(pid, self._reclaimable // 2)]
        if report.sharers:
            report.outcome, report.cause, report.remedy = Outcome.SHARED_MM, explain.shared_mm(report.sharers), explain.REMEDY_SHARED_MM
            return False
        fell = self._charge_fell()
        if not fell and group is not None and group.alone and group.anon() > self._charged // 2 + _CHARGE_SLACK:
            report.outcome, report.cause, report.remedy = Outcome.HELD, explain.PINNED, explain.REMEDY_PINNED
            return False
        self._prove(Outcome.EXITED, Proof.CGROUP if fell else Proof.EXIT, Step.EXIT)
        report.released = self._reclaimable
        return True

    def _prove(self, outcome: Outcome, proof: Proof, step: Step) -> None:
        report = self._report
        report.outcome, report.proof, report.step = outcome, proof, step
        report.errno, report.cause, report.remedy = 0, "", ""
        report.release_duration = time.monotonic() - self._start
        if step is Step.EXIT and report.exit_duration is not None:
            report.release_duration = report.exit_duration

    def _finish(self) -> None:
        """Measure a last time and say what is not back, and why."""
        report, group = self._report, self._cgroup
        if group is not None:
            report.cgroup_path, report.cgroup_before, report.cgroup_after = group.path, group.before, group.usage()
        if self._exited.is_set():
            report.after = None
        else:
            report.after = None
            with contextlib.suppress(OSError):  # a limit of the agent's process: then this is not known
                report.after = self._ref.memory()
                report.state, report.wchan = procfs.waiting(self._ref.proc)
        if report.proof is Proof.NONE:
            self._judge_unproven()
        else:
            self._subtract_copy_on_write()
        explain.unreleased(report)

    def _judge_unproven(self) -> None:
        """The deadline passed: say how much is measurably back, and what the process waits for."""
        report = self._report
        if report.after is not None:
            report.released = max(0, self._reclaimable - report.after.reclaimable)
        if report.outcome in (Outcome.HELD, Outcome.PARTIAL, Outcome.NOT_DYING):
            some = report.released > self._tolerance
            if report.outcome is not Outcome.NOT_DYING:
                report.outcome = Outcome.PARTIAL if some else Outcome.HELD
            report.remedy = report.remedy or explain.remedy_held(report.state)
        held = self._reclaimable - report.released
        if held > 0:
            report.unreleased[Unreleased.SHARED_MM if report.outcome is Outcome.SHARED_MM else Unreleased.HELD] = held

    def _subtract_copy_on_write(self) -> None:
        """Pages inherited by fork(2) leave the process, but the node keeps them for its relatives: they are not counted as released."""
        report, group = self._report, self._cgroup
        if group is None or not group.alone or report.before is None:
            return
        inherited = report.before.anon - self._charged
        if inherited > self._tolerance + _CHARGE_SLACK:
            report.released = max(0, report.released - inherited)
            report.unreleased[Unreleased.COPY_ON_WRITE] = inherited
            report.cause = explain.COPY_ON_WRITE


#: Bytes that a cgroup's charge may lag: each CPU keeps a stock of up to 64 pages (mm/memcontrol.c, MEMCG_CHARGE_BATCH).
_CHARGE_SLACK: Final = 64 * procfs.PAGE_SIZE * (os.cpu_count() or 1)
