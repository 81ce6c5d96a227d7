"""One process: [signal, grace,] kill, let it exit by itself for a moment, release, prove. DESIGN §4 from "measure" to "verdict".

The event loop only waits here (the pidfd becomes readable, a pause ends); what may block in the kernel runs on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from mrelease_agent.linux import procfs
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.before import Before, limits_of_the_agent
from mrelease_agent.reaping.concluding import DIAGNOSIS, conclude, round_off
from mrelease_agent.reaping.exits import Exits
from mrelease_agent.reaping.measuring import Measured
from mrelease_agent.reaping.outcome import Proof, Step
from mrelease_agent.reaping.releasing import Releasing
from mrelease_agent.reaping.report import Plan, Report
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.reaping.victim import Victim


class Operation:
    """One kill and release, or release, of one process: run(), or its parts in this order:

    prepare(), [begin_grace(), wait_exit(), prepare_again(),] begin(), [settle(),] complete(), close(). Owns ``ref``.

    ``before`` is what is found out ahead of the signal, from ``measured`` where this is one process of many. ``aid`` gives the victim CPU
    time; of many it is one for all, and the set's to use. ``thorough``: where memory is held, look for who holds it, not at its state only.
    """

    def __init__(
        self, ref: ProcessRef, plan: Plan, tools: Tools, aid: Aid, measured: Measured | None = None, *, thorough: bool = True
    ) -> None:
        self._victim = Victim(ref, plan)
        self.ref = ref
        self.report = self._victim.report  # what is known so far
        self._plan = plan
        self._tools = tools
        self._aid = aid
        self._releasing = Releasing(self._victim, tools, aid)
        self.before = Before(self._victim, tools, measured)
        self._seconds = DIAGNOSIS if thorough else 0.0
        self._warned = False
        self._with_all = False
        self._in_grace = False
        self._waited = False

    async def run(self) -> Report:
        """Do it. Raises LimitError, NotDyingError, ProcessLookupError and PermissionError of the signal: then nothing was signalled."""
        victim = self._victim
        try:
            await self.prepare()
            if self._plan.kill and self._plan.grace > 0:
                self.begin_grace(send=True)
                await self.wait_exit(self._plan.grace)
                await self.prepare_again()
                self._tools.tell("grace", time.monotonic() - victim.proving.start)
            if self._plan.kill and not victim.exited:
                await self._aid.before_kill([victim.ref], victim.proving.reclaimable)
            self.begin()
            if self.is_dying:
                self._aid.after_kill([victim.ref])
            return await self.complete()
        finally:
            self._aid.leave()
            self.close()

    @property
    def size(self) -> int:
        """Bytes that its death gives back."""
        return self._victim.proving.reclaimable

    @property
    def held(self) -> int:
        """Bytes that are not proven back now."""
        victim = self._victim
        if victim.ref.fd < 0:
            return max(0, victim.proving.reclaimable - victim.report.released)
        return victim.proving.held

    def close(self) -> None:
        """Close what is open; harmless when repeated."""
        victim = self._victim
        victim.exit.close()
        victim.ref.close()
        self._releasing.close()
        if victim.proving.cgroup is not None:
            victim.proving.cgroup.close()

    async def prepare(self) -> None:
        """Measure, and open what the first call needs: after the signal it is too late to find that no descriptor is free.

        Raises LimitError.
        """
        with limits_of_the_agent():
            self._victim.exit.watch(Exits.of(asyncio.get_running_loop()))
            self._releasing.reserve()
            await self.before.measure()

    @property
    def is_dying(self) -> bool:
        """Whether it may be helped to die: it was sent SIGKILL by this operation, or by somebody else."""
        return self._plan.kill or procfs.dying(self._victim.ref.proc)

    def begin_grace(self, *, send: bool) -> None:
        """Start the clock of the grace period; ``send``: its signal is for this process, too.

        Raises ProcessLookupError, PermissionError: nothing was signalled.
        """
        self._victim.start_clock()
        self._warned = True
        if not send:
            return
        self._victim.ref.send_signal(self._plan.signal)
        # What is stopped would sleep through its grace: systemd.kill(5) does the same.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._victim.ref.send_signal(signal.SIGCONT)

    async def prepare_again(self) -> None:
        """After the grace period: what did not end by itself may hold more or less than before, and have other sharers."""
        if not self._victim.exited:
            await self.before.measure_again()

    def begin_with_all(self) -> None:
        """Start the clock: SIGKILL comes now by cgroup.kill, and who is reaped before begin() was killed by this operation."""
        if not (self._warned and self._victim.exited):
            self._victim.start_clock()
            self._with_all = True

    def begin(self) -> None:
        """Send SIGKILL where the plan says so, and start the clock. Raises ProcessLookupError, PermissionError: nothing was signalled."""
        victim = self._victim
        if self._warned and victim.exited and not self._with_all:  # in its grace: the clock began with the first signal
            self._in_grace = True
            victim.deadline = time.monotonic() + self._plan.timeout
            return
        if not self._with_all:
            victim.start_clock()
            if victim.exited:
                victim.report.exit_duration = 0.0
        if self._plan.kill:
            try:
                victim.ref.send_signal(signal.SIGKILL)
            except ProcessLookupError:
                if not (self._warned or self._with_all):
                    raise
            victim.report.kill_duration = time.monotonic() - victim.proving.start
            self._tools.tell("kill", victim.report.kill_duration)

    def settle(self) -> bool:
        """After begin(): whether it has exited by itself and its memory is proven back; then the report is whole, as after complete().

        Otherwise complete() is to follow, which does not wait for it to exit by itself once more.
        """
        self._waited = True
        if not self._victim.exited or not self._victim.proving.exited():
            return False
        self._tell_times(time.monotonic() - self._victim.proving.start)
        round_off(self._victim, self._aid)
        self._conclude()
        return True

    async def complete(self) -> Report:
        """Release, prove, report. Raises NotDyingError."""
        victim, report, plan = self._victim, self._victim.report, self._plan
        if plan.kill and not self._in_grace:
            report.step = Step.KILL
            if not self._waited:
                await self.wait_exit(min(plan.reap_delay, victim.remaining))
        await self._releasing.release()
        took = time.monotonic() - victim.proving.start
        if plan.wait_for_exit and report.proof is not Proof.NONE:
            await self.wait_exit(victim.remaining)
        self._tell_times(took)
        await conclude(victim, self._tools, self._aid, self._seconds)
        self._conclude()
        return report

    def _tell_times(self, took: float) -> None:
        self._victim.report.settled = took
        self._tools.tell("release", took)
        exit_duration = self._victim.report.exit_duration
        if exit_duration is not None:
            self._tools.tell("exit", exit_duration)

    def _conclude(self) -> None:
        self._victim.report.concluded = time.monotonic() - self._victim.proving.start
        if self._in_grace and self._victim.report.step is Step.EXIT:
            self._victim.report.step = Step.GRACE

    async def wait_exit(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the exit; whether it has exited."""
        return await self._victim.exit.wait(seconds)
