"""Many processes as one target: all of them killed, the biggest released first, and again until none is left.

What forks while it is being killed leaves children that were in no list: so the members are listed again until a list has nobody new.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.before import search_sharers
from mrelease_agent.reaping.errors import LimitError, NotDyingError
from mrelease_agent.reaping.measuring import Measured
from mrelease_agent.reaping.operation import Operation
from mrelease_agent.reaping.outcome import Outcome, Step
from mrelease_agent.reaping.report import Plan, Report

_FIRST_PAUSE: Final = 0.001
_LAST_PAUSE: Final = 0.05
#: Bytes up to which a process that gets to run has freed itself before it could be reaped.
_SMALL: Final = 4 << 20
#: Seconds in which at least one of the small ones has to exit, and for which they may go on doing so: then they are reaped too.
_PROGRESS: Final = 0.01
_PATIENCE: Final = 0.25

Make = Callable[[ProcessRef, Plan, Measured], Operation]


class Member(NamedTuple):
    """A process of the target, opened and measured; ``place``: path of the cgroup that listed it, empty where none did."""

    ref: ProcessRef
    measured: Measured
    place: str = ""

    @property
    def size(self) -> int:
        """What releasing it gives back, in bytes."""
        return self.measured.memory.reclaimable if self.measured.memory else 0


class Members(Protocol):
    """The processes of a target as they come."""

    async def fresh(self) -> list[Member]:
        """Members that no earlier call returned; the caller owns them. Raises OSError for limits of the agent's process."""
        ...

    def first(self, found: list[Member]) -> list[Member]:
        """Of these members, those whom the signal of a grace period is for: a container's first process, who tells the others."""
        ...

    async def join(self, pids: Collection[int]) -> list[Member]:
        """Members by their pids although they are elsewhere now; those that an earlier call returned are left out. Raises OSError."""
        ...

    async def kill_all(self) -> bool:
        """Kill all of them at once, so that no fork escapes; false where that is not possible."""
        ...


class SetOperation:
    """One kill and release, or release, of all members; run() is called once."""

    def __init__(self, members: Members, plan: Plan, make: Make, aid: Aid) -> None:
        self._members = members
        self._plan = plan
        self._make = make
        self._aid = aid
        self._deadline = 0.0
        self._reports: list[Report] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, first: list[Member]) -> list[Report]:
        """Do it to ``first``, what fresh() returned first, and to all that come after; the reports in the order of the kills.

        Raises LimitError and, for Release where all are alive, NotDyingError: then nothing was signalled.
        """
        try:
            return await self._run(first)
        finally:
            self._aid.leave()

    async def _run(self, first: list[Member]) -> list[Report]:
        asked = {member.ref.pid for member in self._members.first(first)}
        prepared = await self._prepare(first, self._plan)
        if self._plan.kill and self._plan.grace > 0:
            await self._grace([operation for operation in prepared if operation.ref.pid in asked], prepared)
        if self._plan.kill:
            await self._aid.before_kill([operation.ref for operation in prepared], sum(member.size for member in first))
        self._deadline = time.monotonic() + self._plan.timeout
        all_at_once = False
        if self._plan.kill:
            for operation in prepared:
                operation.begin_with_all()
            all_at_once = await self._members.kill_all()
        self._begin(prepared)
        # No fork outruns cgroup.kill: then who comes later was moved here.
        pause = _LAST_PAUSE if all_at_once else _FIRST_PAUSE
        looking = not all_at_once
        while self._plan.kill and self._remaining > 0:
            if looking and await self._again():
                pause = _FIRST_PAUSE
            elif self._tasks:
                await asyncio.wait(self._tasks, timeout=pause)
                pause = min(pause * 2, _LAST_PAUSE)
            elif looking:
                break
            looking = True
        if self._plan.kill and self._remaining <= 0:
            await self._again()  # who outran us so far is killed too, and reported as it is then
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._reports and all(report.outcome is Outcome.NOT_DYING and report.step is Step.GUARD for report in self._reports):
            raise NotDyingError
        return self._reports

    async def _prepare(self, members: list[Member], plan: Plan) -> list[Operation]:
        """Prepare the biggest first. Raises LimitError: then every member is closed."""
        operations = [
            self._make(member.ref, plan, member.measured) for member in sorted(members, key=lambda member: member.size, reverse=True)
        ]
        try:
            for operation in operations:
                await operation.prepare()
            await search_sharers([operation.before for operation in operations])
        except BaseException:
            for operation in operations:
                operation.close()
            raise
        return operations

    async def _grace(self, asked: list[Operation], everybody: list[Operation]) -> None:
        """Send the signal of the grace period, and wait until all have exited or it is over."""
        until = time.monotonic() + self._plan.grace
        for operation in everybody:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # begin() meets it again, and reports it
                operation.begin_grace(send=operation in asked)
        for operation in everybody:
            if not await operation.wait_exit(until - time.monotonic()):
                break
        for operation in everybody:
            await operation.prepare_again()

    def _begin(self, operations: list[Operation]) -> None:
        begun: list[Operation] = []
        for operation in operations:
            try:
                operation.begin()
            except ProcessLookupError:  # it was reaped since it was listed
                operation.close()
                continue
            except PermissionError:
                report = operation.report
                report.outcome, report.step = Outcome.NOT_PERMITTED, Step.KILL
                report.cause, report.remedy = explain.NOT_PERMITTED, explain.REMEDY_NOT_PERMITTED
                self._reports.append(report)
                operation.close()
                continue
            self._reports.append(operation.report)
            begun.append(operation)
        if begun:
            self._spawn(self._complete_all(begun))
        helped = begun if self._plan.kill else [operation for operation in begun if operation.is_dying]
        self._aid.after_kill([operation.ref for operation in helped])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _complete_all(self, operations: list[Operation]) -> None:
        """Settle those that exit by themselves, which costs little; each of the others has a task of its own."""
        left = operations
        if self._plan.kill and self._plan.reap_delay > 0:
            left = await _settle(left, min(self._plan.reap_delay, self._remaining))
        small: list[Operation] = []
        for operation in left:
            if operation.size <= _SMALL and self._plan.kill and self._plan.reap_delay > 0:
                small.append(operation)
            else:
                self._spawn(self._complete(operation))
        # A thousand that exit need all CPUs for that. To reap them meanwhile would only be in their way.
        until = time.monotonic() + min(_PATIENCE, self._plan.timeout / 2)
        while small and time.monotonic() < until:
            before, small = len(small), await _settle(small, _PROGRESS)
            if len(small) == before:
                break
        for operation in small:
            self._spawn(self._complete(operation))

    async def _complete(self, operation: Operation) -> None:
        try:
            await operation.complete()
        except NotDyingError:
            report = operation.report
            report.outcome, report.step, report.errno, report.cause = Outcome.NOT_DYING, Step.GUARD, 0, explain.NOT_DYING
        finally:
            operation.close()

    @property
    def _remaining(self) -> float:
        return self._deadline - time.monotonic()

    async def _again(self) -> bool:
        """Kill who has come meanwhile; whether there was anybody."""
        try:
            members = await self._members.fresh()
            strays = self._aid.strays()
            if strays:
                members += await self._members.join(strays)
            if members:
                self._begin(await self._prepare(members, replace(self._plan, timeout=max(0.0, self._remaining))))
        except (OSError, LimitError):  # a limit of the agent's process: operations that end make room
            return False
        return bool(members)


async def _settle(operations: list[Operation], seconds: float) -> list[Operation]:
    """Wait until all have exited, up to ``seconds``; returns those that have not, or whose memory is not proven back."""
    until = time.monotonic() + seconds
    for operation in operations:
        if not await operation.wait_exit(until - time.monotonic()):
            break
    left: list[Operation] = []
    for operation in operations:
        if operation.settle():
            operation.close()
        else:
            left.append(operation)
    return left
