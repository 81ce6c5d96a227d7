"""The processes of a group that the guard lets be signalled, as they come."""

from __future__ import annotations

import logging
from collections.abc import Collection

from mrelease_agent.guard.gate import Found, Ticket
from mrelease_agent.guard.refusals import AuditUnavailable
from mrelease_agent.reaping.outcome import Outcome, Step
from mrelease_agent.reaping.report import Report
from mrelease_agent.reaping.set_operation import Member, Members
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")


class AllowedMembers:
    """Members whose later ones, which the target has forked meanwhile, pass the gate too; see reaping.set_operation.Members.

    Those that may not be signalled are left alone and reported, in ``refused``, as NOT_PERMITTED.
    """

    def __init__(self, members: Members, ticket: Ticket) -> None:
        self._members = members
        self._ticket = ticket
        self.refused: list[Report] = []

    async def fresh(self) -> list[Member]:
        """See Members."""
        return await self._allowed(await self._members.fresh())

    def first(self, found: list[Member]) -> list[Member]:
        """See Members."""
        return self._members.first(found)

    async def join(self, pids: Collection[int]) -> list[Member]:
        """See Members."""
        return await self._allowed(await self._members.join(pids))

    async def kill_all(self) -> bool:
        """See Members."""
        return await self._members.kill_all()

    async def _allowed(self, found: list[Member]) -> list[Member]:
        if not found:
            return found
        try:
            allowed = await self._ticket.more([Found(member.ref, member.size, member.place) for member in found])
        except AuditUnavailable as why:
            event(_log, logging.ERROR, "audit unavailable", why=why.message, processes=len(found))
            allowed = [False] * len(found)
        except BaseException:
            for member in found:
                member.ref.close()
            raise
        for member, may in zip(found, allowed, strict=True):
            if not may:
                self.refused.append(_report(member))
                member.ref.close()
        return [member for member, may in zip(found, allowed, strict=True) if may]


def _report(member: Member) -> Report:
    report = Report(member.ref.identity, Outcome.NOT_PERMITTED, Step.GUARD)
    report.before = report.after = member.measured.memory
    return report
