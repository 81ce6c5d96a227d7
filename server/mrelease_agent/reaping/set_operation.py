"""Many processes as one target: all of them killed, the biggest released first, and again until none is left.

What forks while it is being killed leaves children that were in no list: so the members are listed again until a list has nobody new.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping import explain
from mrelease_agent.reaping.aid import Aid
from mrelease_agent.reaping.operation import LimitError, Measured, NotDyingError, Operation
from mrelease_agent.reaping.outcome import Outcome, Step
from mrelease_agent.reaping.report import Plan, Report

_FIRST_PAUSE: Final = 0.001
_LAST_PAUSE: Final = 0.05

Make = Callable[[ProcessRef, Plan, Measured], Operation]


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the target, opened and measured."""

    ref: ProcessRef
    measured: Measured

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
        if self._plan.kill:
            for operation in prepared:
                operation.begin_with_all()
            await self._members.kill_all()
        self._begin(prepared)
        pause = _FIRST_PAUSE
        while self._plan.kill and self._remaining > 0:
            if await self._again():
                pause = _FIRST_PAUSE
            elif not self._tasks:
                break
            else:
                await asyncio.wait(self._tasks, timeout=pause)
                pause = min(pause * 2, _LAST_PAUSE)
        if self._plan.kill and self._remaining <= 0:
            await self._again()  # who outran us so far is killed too, and reported as it is then
        if self._tasks:
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
        loop = asyncio.get_running_loop()
        begun: list[ProcessRef] = []
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
            begun.append(operation.ref)
            task = loop.create_task(self._complete(operation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._aid.after_kill(begun if self._plan.kill else [operation.ref for operation in operations if operation.is_dying])

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
