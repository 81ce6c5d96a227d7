"""Many processes as one target: all of them killed, the biggest released first, and again until none is left.

What forks while it is being killed leaves children that were in no list: so the members are listed again until a list has nobody new.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping import explain
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

    async def kill_all(self) -> bool:
        """Kill all of them at once, so that no fork escapes; false where that is not possible."""
        ...


class SetOperation:
    """One kill and release, or release, of all members; run() is called once."""

    def __init__(self, members: Members, plan: Plan, make: Make) -> None:
        self._members = members
        self._plan = plan
        self._make = make
        self._deadline = 0.0
        self._reports: list[Report] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, first: list[Member]) -> list[Report]:
        """Do it to ``first``, what fresh() returned first, and to all that come after; the reports in the order of the kills.

        Raises LimitError and, for Release where all are alive, NotDyingError: then nothing was signalled.
        """
        prepared = await self._prepare(first, self._plan)
        self._deadline = time.monotonic() + self._plan.timeout
        if self._plan.kill:
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

    def _begin(self, operations: list[Operation]) -> None:
        loop = asyncio.get_running_loop()
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
            task = loop.create_task(self._complete(operation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
            if members:
                self._begin(await self._prepare(members, replace(self._plan, timeout=max(0.0, self._remaining))))
        except (OSError, LimitError):  # a limit of the agent's process: operations that end make room
            return False
        return bool(members)
