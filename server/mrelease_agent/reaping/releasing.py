"""process_mrelease(2) for one victim: called on a thread, and again until the memory is proven back or the deadline has passed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.robust import holds_robust_mutex
from mrelease_agent.linux.sharing import sharers
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.errors import LIMITS, NotDyingError
from mrelease_agent.reaping.outcome import HeldCause, Outcome, Step, Then, answer
from mrelease_agent.reaping.reapers import NotStartedError
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.reaping.victim import Victim

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


class Releasing:
    """What is done to a victim from the end of the reap delay until its memory is back, or is known not to come back in time."""

    def __init__(self, victim: Victim, tools: Tools, aid: Aid) -> None:
        self._victim = victim
        self._tools = tools
        self._aid = aid
        self._fd = -1

    def reserve(self) -> None:
        """Open what the first call needs: after the signal it is too late to find that no descriptor is free. Raises OSError."""
        self._fd = os.dup(self._victim.ref.fd)

    def close(self) -> None:
        """Close what was reserved and not used; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def reap(self) -> int:
        """Call process_mrelease(2) on a reaper thread; its errno, ETIMEDOUT where it has not returned, EBUSY where no thread was free."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            fd = os.dup(self._victim.ref.fd)
        report = self._victim.report
        report.attempts += 1
        if report.reap_begin is None:
            report.reap_begin = time.monotonic() - self._victim.proving.start
        call, proc = self._tools.call, self._proc_to_spare()

        def reap() -> int:
            return _HOLDS_ROBUST if proc >= 0 and holds_robust_mutex(proc) else call(fd)

        def close() -> None:
            os.close(fd)
            if proc >= 0:
                os.close(proc)

        try:
            number = await self._tools.reapers.run(reap, max(_LEAST_CALL, self._victim.remaining), close)
        except NotStartedError:
            return errno.EBUSY
        except TimeoutError:
            return errno.ETIMEDOUT
        if number > 0:
            self._tools.count_error(errno.errorcode.get(number, str(number)))
        return number

    async def release(self) -> None:
        """Release until the memory is proven back or the deadline has passed, and leave the outcome in the report.

        Raises NotDyingError.
        """
        victim, report = self._victim, self._victim.report
        if not self._tools.can_release:
            self._refuse_the_living()
            report.outcome, report.held_cause = Outcome.UNSUPPORTED, HeldCause.UNSUPPORTED
            await self._await_freed()
            return
        pause = _FIRST_PAUSE
        while not victim.exited:
            report.step = Step.RELEASE
            try:
                if await self._release_once():
                    return
            except OSError as error:
                if error.errno not in LIMITS:
                    raise
            if victim.remaining <= 0 or await victim.exit.wait(min(pause, victim.remaining)):
                break
            pause = min(pause * 2, _LAST_PAUSE)
        await self._await_freed()

    async def _release_once(self) -> bool:
        """One call and what follows from its answer: whether that settled the outcome. Raises OSError for limits."""
        report, proving = self._victim.report, self._victim.proving
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
        if what.then is Then.MEASURE and proving.reaped():
            return True
        if what.then is Then.DIAGNOSE:
            await self._why_refused()
        if what.then is Then.AWAIT_EXIT or (what.then is Then.MEASURE and report.after is None):
            self._aid.in_vain(self._victim.ref)
            await self._await_freed()
            return True
        return False

    def _proc_to_spare(self) -> int:
        """Its directory in /proc for as long as it is spared while it holds robust mutexes; -1 after, and where no descriptor is free."""
        plan = self._victim.plan
        spared = min(_ROBUST_DELAY, plan.timeout / 2)
        if plan.reap_delay > 0 and time.monotonic() - self._victim.proving.start < spared:
            with contextlib.suppress(OSError):
                return os.dup(self._victim.ref.proc)
        return -1

    def _refuse_the_living(self) -> None:
        if not self._victim.plan.kill and not self._victim.exited and not procfs.dying(self._victim.ref.proc):
            raise NotDyingError

    async def _why_refused(self) -> None:
        """EINVAL: not dying, dumping core, or sharing its address space with the living."""
        report = self._victim.report
        if procfs.core_dumping(self._victim.ref.proc):
            report.outcome, report.held_cause = Outcome.CORE_DUMPING, HeldCause.CORE_DUMP
            return
        found = await self._search_sharers(max(_LEAST_CALL, min(1.0, self._victim.remaining)))
        self._refuse_the_living()
        if found:
            report.sharers, report.outcome, report.held_cause = found, Outcome.SHARED_MM, HeldCause.SHARED_MM

    async def _search_sharers(self, timeout: float) -> list[int]:
        """Find the other processes with the victim's address space; empty where it takes too long. Raises OSError for limits."""
        proc = os.dup(self._victim.ref.proc)
        pid = self._victim.ref.pid
        try:
            return await self._tools.reapers.run(lambda: sharers(pid, proc), timeout, lambda: os.close(proc))
        except TimeoutError:
            return []

    async def _await_freed(self) -> None:
        """Wait until the process has exited or the charge of its cgroup has fallen, or until the deadline."""
        victim, proving = self._victim, self._victim.proving
        pause = _FIRST_PAUSE
        while True:
            if victim.exited and proving.exited():
                return
            if proving.freed() or victim.remaining <= 0:
                return
            if victim.exited:
                await asyncio.sleep(min(pause, max(0.0, victim.remaining)))
            else:
                group = proving.cgroup
                watching = group is not None and group.alone
                await victim.exit.wait(min(pause, victim.remaining) if watching else victim.remaining)
            pause = min(pause * 2, _LAST_PAUSE)
