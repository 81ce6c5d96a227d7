"""One process: [signal, grace,] kill, let it exit by itself for a moment, release, prove. DESIGN §4 from "measure" to "verdict".

The event loop only waits here (the pidfd becomes readable, a pause ends); what may block in the kernel runs on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroups import MemoryCgroup
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import Memory
from mrelease_agent.linux.robust import holds_robust_mutex
from mrelease_agent.linux.sharing import alike_relatives, sharers
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.outcome import HeldCause, Outcome, Proof, Step, Then, answer
from mrelease_agent.reaping.proving import Proving
from mrelease_agent.reaping.reapers import NotStartedError
from mrelease_agent.reaping.report import Plan, Report
from mrelease_agent.reaping.tools import Tools

#: Pauses between calls and between looks at the charge, in seconds: the first, and the bound of the doubling.
_FIRST_PAUSE: Final = 0.001
_LAST_PAUSE: Final = 0.1
#: Seconds that a call which the deadline still permits is given to return: an answer says more than the deadline.
_LEAST_CALL: Final = 0.25
#: Seconds for which one that holds a robust mutex may exit by itself, as the OOM reaper does (OOM_REAPER_DELAY, mm/oom_kill.c); at most
#: half of the time that there is.
_ROBUST_DELAY: Final = 2.0
#: What reap() says of it; no errno.
_HOLDS_ROBUST: Final = -1
#: Seconds for finding out what holds the memory, when the deadline has passed.
_DIAGNOSIS: Final = 0.25
#: What the agent's own process may run into at any time: once the signal is out, it goes on and tries again.
LIMITS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_OUTCOMES: Final = {
    HeldCause.SHARED_MM: Outcome.SHARED_MM,
    HeldCause.CORE_DUMP: Outcome.CORE_DUMPING,
    HeldCause.UNSUPPORTED: Outcome.UNSUPPORTED,
}


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
    """One kill and release, or release, of one process: run(), or its parts in this order:

    prepare(), [begin_grace(), wait_exit(), prepare_again(),] begin(), complete(), close(). Owns ``ref``.

    ``measured`` is given for one process of many; then the charge of its memory cgroup is not looked at: it is not its alone. ``aid``
    gives the victim CPU time; of many it is one for all, and the set's to use. ``thorough``: where the memory is held, look for who holds
    it and not at its state alone.
    """

    def __init__(
        self, ref: ProcessRef, plan: Plan, tools: Tools, aid: Aid, measured: Measured | None = None, *, thorough: bool = True
    ) -> None:
        self._ref = ref
        self._plan = plan
        self._tools = tools
        self._aid = aid
        self._one_of_many = measured is not None
        self._measured = measured
        self._seconds = _DIAGNOSIS if thorough else 0.0
        self._exited = asyncio.Event()
        self._deadline = 0.0
        self._warned = False
        self._with_all = False
        self._first_fd = -1
        self._report = Report(ref.identity)
        self._proving = Proving(ref, self._report)

    async def run(self) -> Report:
        """Do it. Raises LimitError, NotDyingError, ProcessLookupError and PermissionError of the signal: then nothing was signalled."""
        try:
            await self.prepare()
            if self._plan.kill and self._plan.grace > 0:
                self.begin_grace(send=True)
                await self.wait_exit(self._plan.grace)
                await self.prepare_again()
                self._tools.tell("grace", time.monotonic() - self._proving.start)
            if self._plan.kill and not self._exited.is_set():
                await self._aid.before_kill([self._ref], self._proving.reclaimable)
            self.begin()
            if self.is_dying:
                self._aid.after_kill([self._ref])
            return await self.complete()
        finally:
            self._aid.leave()
            self.close()

    @property
    def report(self) -> Report:
        """What is known so far."""
        return self._report

    @property
    def ref(self) -> ProcessRef:
        """The process."""
        return self._ref

    @property
    def held(self) -> int:
        """Bytes that are not proven back now."""
        if self._ref.fd < 0:
            return max(0, self._proving.reclaimable - self._report.released)
        return self._proving.held

    def close(self) -> None:
        """Close what is open; harmless when repeated."""
        if self._ref.fd >= 0:
            asyncio.get_running_loop().remove_reader(self._ref.fd)
        self._ref.close()
        if self._first_fd >= 0:
            os.close(self._first_fd)
            self._first_fd = -1
        if self._proving.cgroup is not None:
            self._proving.cgroup.close()

    def _on_exit(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._ref.fd)
        start = self._proving.start
        self._report.exit_duration = max(0.0, time.monotonic() - start) if start else None
        self._exited.set()

    async def prepare(self) -> None:
        """Measure, and open what the first call needs: after the signal it is too late to find that no descriptor is free.

        Raises LimitError.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._ref.fd, self._on_exit, loop)
        try:
            self._first_fd = os.dup(self._ref.fd)
            await self._measure()
        except OSError as error:
            if error.errno not in LIMITS:
                raise
            raise LimitError(error) from error

    async def _measure(self) -> None:
        report = self._report
        if not self._one_of_many:
            before, self._proving.cgroup = self._proving.cgroup, MemoryCgroup.of(self._ref.pid, self._ref.proc)
            if before is not None:
                before.close()
        measured = self._measured or measure(self._ref)
        self._measured = None
        report.before = measured.memory
        report.sharers = await self._search_sharers(0.25, measured.alike) if measured.alike else []

    @property
    def is_dying(self) -> bool:
        """Whether it may be helped to die: it was sent SIGKILL by this operation, or by somebody else."""
        return self._plan.kill or procfs.dying(self._ref.proc)

    def begin_grace(self, *, send: bool) -> None:
        """Start the clock of the grace period; ``send``: its signal is for this process, too.

        Raises ProcessLookupError, PermissionError: nothing was signalled.
        """
        self._start_clock()
        self._warned = True
        if not send:
            return
        self._ref.send_signal(self._plan.signal)
        # What is stopped would sleep through its grace: systemd.kill(5) does the same.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._ref.send_signal(signal.SIGCONT)

    async def prepare_again(self) -> None:
        """After the grace period: what did not end by itself may hold more or less than before, and have other sharers."""
        if self._exited.is_set():
            return
        with contextlib.suppress(OSError):  # a limit of the agent's process: what was measured before stands
            await self._measure()

    def begin_with_all(self) -> None:
        """Start the clock: SIGKILL comes now by cgroup.kill, and who is reaped before begin() was killed by this operation."""
        if not (self._warned and self._exited.is_set()):
            self._start_clock()
            self._with_all = True

    def begin(self) -> None:
        """Send SIGKILL where the plan says so, and start the clock. Raises ProcessLookupError, PermissionError: nothing was signalled."""
        if self._warned and self._exited.is_set():  # in its grace: the clock began with the first signal
            self._deadline = time.monotonic() + self._plan.timeout
            return
        if not self._with_all:
            self._start_clock()
            if self._exited.is_set():
                self._report.exit_duration = 0.0
        if self._plan.kill:
            try:
                self._ref.send_signal(signal.SIGKILL)
            except ProcessLookupError:
                if not (self._warned or self._with_all):
                    raise
            self._tools.tell("kill", time.monotonic() - self._proving.start)

    def _start_clock(self) -> None:
        self._report.kill_time = time.time()
        self._proving.start = time.monotonic()
        self._deadline = self._proving.start + self._plan.timeout

    async def complete(self) -> Report:
        """Release, prove, report. Raises NotDyingError."""
        report, tell = self._report, self._tools.tell
        in_grace = self._warned and self._exited.is_set()
        if self._plan.kill and not in_grace:
            report.step = Step.KILL
            await self.wait_exit(min(self._plan.reap_delay, self._remaining))
        await self._release()
        tell("release", time.monotonic() - self._proving.start)
        if self._plan.wait_for_exit and report.proof is not Proof.NONE:
            await self.wait_exit(self._remaining)
        if report.exit_duration is not None:
            tell("exit", report.exit_duration)
        await self._finish()
        if in_grace and report.step is Step.EXIT:
            report.step = Step.GRACE
        return report

    @property
    def _remaining(self) -> float:
        return self._deadline - time.monotonic()

    async def wait_exit(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the exit; whether it has exited."""
        if not self._exited.is_set() and seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._exited.wait(), seconds)
        return self._exited.is_set()

    async def _search_sharers(self, timeout: float, candidates: list[int] | None = None) -> list[int]:
        proc = os.dup(self._ref.proc)
        pid = self._ref.pid
        try:
            return await self._tools.reapers.run(lambda: sharers(pid, proc, candidates), timeout, lambda: os.close(proc))
        except TimeoutError:
            return []

    async def reap(self) -> int:
        """Call process_mrelease(2) on a reaper thread; its errno, ETIMEDOUT where it has not returned, EBUSY where no thread was free."""
        fd, self._first_fd = self._first_fd, -1
        if fd < 0:
            fd = os.dup(self._ref.fd)
        self._report.attempts += 1
        call, proc = self._tools.call, self._proc_to_spare()

        def reap() -> int:
            return _HOLDS_ROBUST if proc >= 0 and holds_robust_mutex(proc) else call(fd)

        def close() -> None:
            os.close(fd)
            if proc >= 0:
                os.close(proc)

        try:
            number = await self._tools.reapers.run(reap, max(_LEAST_CALL, self._remaining), close)
        except NotStartedError:
            return errno.EBUSY
        except TimeoutError:
            return errno.ETIMEDOUT
        if number > 0:
            self._tools.count_error(errno.errorcode.get(number, str(number)))
        return number

    def _proc_to_spare(self) -> int:
        """Its directory in /proc for as long as it is spared while it holds robust mutexes; -1 after, and where no descriptor is free."""
        spared = min(_ROBUST_DELAY, self._plan.timeout / 2)
        if self._plan.reap_delay > 0 and time.monotonic() - self._proving.start < spared:
            with contextlib.suppress(OSError):
                return os.dup(self._ref.proc)
        return -1

    async def _release(self) -> None:
        """Release until the memory is proven back or the deadline has passed, and leave the outcome in the report."""
        report = self._report
        if not self._tools.can_release:
            self._refuse_the_living()
            report.outcome, report.held_cause = Outcome.UNSUPPORTED, HeldCause.UNSUPPORTED
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
            if self._remaining <= 0 or await self.wait_exit(min(pause, self._remaining)):
                break
            pause = min(pause * 2, _LAST_PAUSE)
        await self._await_freed()

    async def _release_once(self) -> bool:
        """One call and what follows from its answer: whether that settled the outcome. Raises OSError for limits."""
        report = self._report
        number = await self.reap()
        if number == _HOLDS_ROBUST:
            report.attempts -= 1
            return False
        report.errno = number
        if report.errno in (errno.ETIMEDOUT, errno.EBUSY):
            report.outcome = Outcome.HELD
            report.held_cause = HeldCause.MMAP_LOCK if report.errno == errno.ETIMEDOUT else HeldCause.NO_REAPER
            await self._await_freed()
            return True
        what = answer(report.errno)
        report.outcome, report.cause = what.outcome, what.meaning
        report.held_cause = HeldCause.UNSUPPORTED if what.outcome is Outcome.UNSUPPORTED else HeldCause.UNSPECIFIED
        if what.then is Then.MEASURE and self._proving.reaped():
            return True
        if what.then is Then.DIAGNOSE:
            await self._why_refused()
        if what.then is Then.AWAIT_EXIT or (what.then is Then.MEASURE and report.after is None):
            self._aid.in_vain(self._ref)
            await self._await_freed()
            return True
        return False

    def _refuse_the_living(self) -> None:
        if not self._plan.kill and not self._exited.is_set() and not procfs.dying(self._ref.proc):
            raise NotDyingError

    async def _why_refused(self) -> None:
        """EINVAL: not dying, dumping core, or sharing its address space with the living."""
        report = self._report
        if procfs.core_dumping(self._ref.proc):
            report.outcome, report.held_cause = Outcome.CORE_DUMPING, HeldCause.CORE_DUMP
            return
        found = await self._search_sharers(max(_LEAST_CALL, min(1.0, self._remaining)))
        self._refuse_the_living()
        if found:
            report.sharers, report.outcome, report.held_cause = found, Outcome.SHARED_MM, HeldCause.SHARED_MM

    async def _await_freed(self) -> None:
        """Wait until the process has exited or the charge of its cgroup has fallen, or until the deadline."""
        pause = _FIRST_PAUSE
        while True:
            if self._exited.is_set() and self._proving.exited():
                return
            if self._proving.freed() or self._remaining <= 0:
                return
            if self._exited.is_set():
                await asyncio.sleep(min(pause, max(0.0, self._remaining)))
            else:
                group = self._proving.cgroup
                watching = group is not None and group.alone
                await self.wait_exit(min(pause, self._remaining) if watching else self._remaining)
            pause = min(pause * 2, _LAST_PAUSE)

    async def _finish(self) -> None:
        """Measure a last time and say what is not back, and why."""
        report, group = self._report, self._proving.cgroup
        if group is not None:
            report.cgroup_path, report.cgroup_before, report.cgroup_after = group.path, group.before, group.usage()
        report.after = None
        if not self._exited.is_set():
            with contextlib.suppress(OSError):  # a limit of the agent's process: then this is not known
                report.after = self._ref.memory()
                report.state, report.wchan = procfs.waiting(self._ref.proc)
        if report.proof is Proof.NONE:
            self._proving.judge_unproven()
            with contextlib.suppress(OSError):
                await self._diagnose()
        else:
            self._proving.subtract_copy_on_write()
        report.boost = self._aid.rung(self._ref.pid)
        explain.unreleased(report)

    async def _diagnose(self) -> None:
        """Find out what holds the memory. Raises OSError for limits of the agent's process."""
        from mrelease_agent.reaping import diagnosis  # rarely needed: the idle agent is smaller without it

        report = self._report
        ref = self._ref.dup()
        exited, held = self._exited.is_set(), self._proving.reclaimable - report.released
        hint, number, known = report.held_cause, report.errno, tuple(report.sharers)
        try:
            found = await self._tools.side.run(
                lambda: diagnosis.diagnose(
                    ref,
                    errno=number,
                    exited=exited,
                    sharers=known,
                    stuck=hint is HeldCause.MMAP_LOCK,
                    no_reaper=hint is HeldCause.NO_REAPER,
                    can_release=hint is not HeldCause.UNSUPPORTED,
                    held_bytes=held,
                    seconds=self._seconds,
                ),
                2 * _DIAGNOSIS,
                ref.close,
            )
        except TimeoutError:
            return
        report.held_cause, report.tracer, report.readers = found.cause, found.tracer, list(found.readers)
        report.state, report.wchan = found.state or report.state, found.wchan or report.wchan
        report.sharers = list(found.sharers) or report.sharers
        report.cause, report.remedy = diagnosis.words(found)
        if report.outcome is Outcome.HELD:
            report.outcome = _OUTCOMES.get(found.cause, report.outcome)
