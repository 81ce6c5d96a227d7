"""The loop: what is due is looked at, while this one leads; what came of it is told, and says when to look again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from mrelease.errors import NoAgent
from mrelease_agent.telemetry.logs import event
from mrelease_controller import attempt, words
from mrelease_controller.agenda import Agenda, Entry
from mrelease_controller.agents import Agents
from mrelease_controller.attempt import Finding, Order, Report
from mrelease_controller.backing_off import pause
from mrelease_controller.cases import Case, may_kill
from mrelease_controller.clock import Clock
from mrelease_controller.config import Settings
from mrelease_controller.events import Events
from mrelease_controller.limits import Limits
from mrelease_controller.metrics import Metrics
from mrelease_controller.modes import Mode

_log = logging.getLogger("mrelease.controller")
#: Looks at the same time: all, and at one node, so that one that does not answer does not hold up the others.
_AT_ONCE: Final = 32
_AT_NODE: Final = 4
#: Seconds for which what cannot be looked at at once waits.
_SOON: Final = 0.2
_LONGEST_SLEEP: Final = 60.0


class Leads(Protocol):
    """See leader.Leader."""

    @property
    def is_leading(self) -> bool:
        """Whether this controller may act now."""
        ...

    async def wait(self) -> None:
        """Until it may."""


class Controller:
    """``mode``: what may be done in a namespace; ``still_ends``: asks the API server whether a pod is still to be ended by now."""

    def __init__(
        self,
        settings: Settings,
        agenda: Agenda,
        agents: Agents,
        events: Events,
        metrics: Metrics,
        clock: Clock,
        leader: Leads,
        *,
        mode: Callable[[str], Mode],
        still_ends: Callable[[Case], Awaitable[bool]],
    ) -> None:
        self._settings, self._agenda, self._agents, self._events = settings, agenda, agents, events
        self._metrics, self._clock, self._leader = metrics, clock, leader
        self._mode, self._still_ends = mode, still_ends
        self._limits = Limits(settings.per_node, settings.total)
        self._news = asyncio.Event()
        self._at_node: Counter[str] = Counter()
        #: Nodes whose agent does not answer: how often in a row, and until when they are left alone.
        self._away: dict[str, tuple[int, float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def changed(self) -> None:
        """Something may be due that was not."""
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled. What agents are doing then they do to its end; the next controller hears of it by the request's id."""
        try:
            while True:
                await self._leader.wait()
                await self._slots.acquire()
                entry = self._agenda.take(self._clock.now())
                self._metrics.pending(len(self._agenda))
                if entry is None:
                    self._slots.release()
                    await self._sleep()
                    continue
                task = asyncio.create_task(self._look(entry))
                self._tasks.add(task)
                task.add_done_callback(self._done)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            event(_log, logging.ERROR, "internal error", exc_info=error)

    async def _sleep(self) -> None:
        when = self._agenda.next_due()
        # Leadership is asked for again and again: it ends without a word.
        seconds = min(_LONGEST_SLEEP, max(0.0, when - self._clock.now()) if when is not None else _LONGEST_SLEEP)
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def _look(self, entry: Entry) -> None:
        case, seconds = entry.case, self._settings.pauses[1]
        self._at_node[case.node] += 1
        try:
            seconds = await self._pause_after(entry, case)
        finally:
            self._at_node -= Counter({case.node: 1})
            self._agenda.put(entry, pause=seconds, now=self._clock.now())
            self.changed()

    async def _pause_after(self, entry: Entry, case: Case) -> float:
        """Look at a case where that may be done now; how long to leave it alone then."""
        mode = self._mode(case.namespace)
        if mode is Mode.OFF:
            return self._settings.pauses[1]
        failures, until = self._away.get(case.node, (0, 0.0))
        if time.monotonic() < until:
            return until - time.monotonic()
        if self._at_node[case.node] > _AT_NODE or not self._leader.is_leading:
            return _SOON
        report = await self._ask(entry, case, mode)
        now = self._clock.now()
        self._metrics.looked(case, report, now)
        if report.finding is Finding.UNREACHABLE:
            seconds = pause(failures, case.node, self._settings)
            self._away[case.node] = (failures + 1, time.monotonic() + seconds)
        else:
            self._away.pop(case.node, None)
            seconds = self._next(entry, report, now)
        entry.attempts += report.asked
        await self._tell(case, report)
        return seconds

    async def _ask(self, entry: Entry, case: Case, mode: Mode) -> Report:
        async def may_be_killed() -> bool:
            return may_kill(case, mode, self._settings, self._clock.now()) and await self._still_ends(case) and self._leader.is_leading

        def admit() -> float:
            return self._limits.take(case.node, time.monotonic_ns()) if self._leader.is_leading else _SOON

        order = Order(case, entry.attempts, mode is Mode.DRY_RUN, may_be_killed, admit)
        try:
            async with self._agents.use(case.node) as client:
                return await attempt.look(client, order, self._settings)
        except NoAgent as error:
            return Report(Finding.UNREACHABLE, error=error)

    def _next(self, entry: Entry, report: Report, now: float) -> float:
        longest = self._settings.pauses[1]
        if report.finding is Finding.LIMITED:
            return report.wait
        if report.finding is Finding.NOTHING:
            return longest
        if report.result is not None and report.result.replayed and report.finding is Finding.HELD:
            return 0.0  # of a request of the controller that was here before: this one has not tried yet
        seconds = pause(entry.failures, entry.case.key, self._settings)
        entry.failures += 1
        allowed = entry.case.since + self._settings.kill_margin
        if report.finding is Finding.ALIVE and self._mode(entry.case.namespace) is Mode.KILL and now < allowed:
            seconds = min(seconds, allowed - now)
        return seconds

    async def _tell(self, case: Case, report: Report) -> None:
        result, error = report.result, report.error
        note = words.note(case, report)
        if report.finding is not Finding.NOTHING:
            event(
                _log,
                logging.INFO,
                "looked",
                pod=case.title,
                uid=case.uid,
                node=case.node,
                kind=case.kind.value,
                container=case.container[:12] or None,
                finding=report.finding.value,
                held_bytes=report.held_bytes or None,
                released_bytes=None if result is None else result.released_bytes,
                request_id=(result.request_id or None) if result is not None else None,
                replayed=True if result is not None and result.replayed else None,
                why=None if error is None else str(error),
            )
        if note is not None and not (report.finding is Finding.RELEASED and result is not None and not result.released_bytes):
            await self._events.write(case, note, again=result is not None and result.replayed)
