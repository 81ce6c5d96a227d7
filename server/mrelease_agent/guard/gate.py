"""The gate that every order passes before anything is signalled: policy, then breaker, then audit, in this order.

The policy says who may do what to whom, the breaker how much of it in a window, the audit log what was done. Each has a null here, for
agents that are configured without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.protected import Protection
from mrelease_agent.guard.refusals import NotPermitted
from mrelease_agent.guard.subject import PodNames, Subject, no_pod_names
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.reaping.report import Done
from mrelease_agent.telemetry import trace_context
from mrelease_agent.telemetry.trace_context import TraceContext


class Found(NamedTuple):
    """An opened process: its size in bytes where that is measured already, and the cgroup that listed it where one did."""

    ref: ProcessRef
    size: int | None = None
    cgroup: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for.

    ``kind``: ``process``, ``container``, ``pod``, ``cgroup`` or ``custom:KIND``, by the field of Target that is set; empty where a method
    has no target.
    ``target``: as it was asked for, for the audit log. ``kill``: whether something would be signalled. ``dry_run``: validate_only.
    ``trace``: where the call belongs; where it is not given, that of the call that is being served.
    """

    caller: Caller
    method: str
    kind: str = ""
    target: str = ""
    kill: bool = False
    dry_run: bool = False
    reason: str = ""
    request_id: str = ""
    trace: TraceContext | None = field(default_factory=trace_context.current.get)


class Grant(Protocol):
    """What the policy gives a caller for one method and kind of target."""

    @property
    def unrestricted(self) -> bool:
        """Whether every target is allowed: then it may be told what exists and what does not."""
        ...

    def covers(self, subject: Subject) -> bool:
        """Whether it allows this process. Raises ProcessGoneError."""
        ...


class Policy(Protocol):
    """Who may do what."""

    def grant(self, caller: Caller, method: str, kind: str = "") -> Grant | None:
        """What this caller may do by this method (to this kind of target where it has one); None: nothing."""
        ...


class Breaker(Protocol):
    """How much may be killed."""

    def admit(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        """Count these kills. Raises OverLimit: then none is counted."""
        ...

    def more(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        """Count kills of a running operation, of processes that its target has forked: they cannot be refused any more."""
        ...


class Audit(Protocol):
    """What was done."""

    async def intent(self, ask: Ask, subjects: Sequence[Subject]) -> int:
        """Make durable that these are going to be killed or released; returns the number of the record. Raises AuditUnavailable."""
        ...

    async def more(self, intent: int, ask: Ask, subjects: Sequence[Subject]) -> None:
        """Make durable that these belong to a running operation too. Raises AuditUnavailable."""
        ...

    def result(self, intent: int, ask: Ask, done: Done | None, error: str) -> None:
        """Record what became of it; ``error``: the reason where it ended in one, else empty. Never raises."""
        ...

    def refused(self, ask: Ask, refusal: Exception) -> None:
        """Record that it was refused. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Everything:
    """The grant where no policy is configured."""

    unrestricted: bool = True

    def covers(self, subject: Subject) -> bool:  # noqa: ARG002, D102
        return True


class NoPolicy:
    """Who reached the agent may do everything."""

    _everything = Everything()

    def grant(self, caller: Caller, method: str, kind: str = "") -> Grant:  # noqa: ARG002, D102
        return self._everything


class NoBreaker:
    """No limit."""

    def admit(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:  # noqa: D102
        pass

    def more(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:  # noqa: D102
        pass


class NoAudit:
    """Nothing is recorded."""

    async def intent(self, ask: Ask, subjects: Sequence[Subject]) -> int:  # noqa: ARG002, D102
        return 0

    async def more(self, intent: int, ask: Ask, subjects: Sequence[Subject]) -> None:  # noqa: D102
        pass

    def result(self, intent: int, ask: Ask, done: Done | None, error: str) -> None:  # noqa: D102
        pass

    def refused(self, ask: Ask, refusal: Exception) -> None:  # noqa: D102
        pass


class Ticket:
    """An order that passed the gate; close() says once what became of it."""

    def __init__(self, gate: Gate, ask: Ask, grant: Grant, intent: int) -> None:
        self._gate = gate
        self._ask = ask
        self._grant = grant
        self._intent = intent
        self._closed = False

    async def more(self, found: Sequence[Found]) -> list[bool]:
        """Say of each process that the target has forked meanwhile, with its size in bytes, whether it may be signalled too.

        Those that may are counted and durably recorded. Raises AuditUnavailable: then none may.
        """
        subjects = self._gate.subjects(found)
        covered = [may(self._grant, subject) for subject in subjects]
        allowed = [subject for subject, may in zip(subjects, covered, strict=True) if may]
        if allowed:
            await self._gate.audit.more(self._intent, self._ask, allowed)
            if self._ask.kill:
                self._gate.breaker.more(self._ask, self._grant, allowed)
        return covered

    def close(self, done: Done | None, error: str = "") -> None:
        """``error``: reason of the error that it ended in, else empty. Only the first call counts."""
        if self._closed:
            return
        self._closed = True
        self._gate.audit.result(self._intent, self._ask, done, error)


def may(grant: Grant, subject: Subject, *, gone: bool = False) -> bool:
    """Whether a grant allows a process; ``gone``: the answer for one that has ended meanwhile and cannot be judged."""
    if grant.unrestricted:
        return True
    try:
        return grant.covers(subject)
    except ProcessGoneError:
        return gone


@dataclass(slots=True)
class Gate:
    """Policy, breaker and audit log of an agent, and what it never kills."""

    policy: Policy = field(default_factory=NoPolicy)
    breaker: Breaker = field(default_factory=NoBreaker)
    audit: Audit = field(default_factory=NoAudit)
    pod_names: PodNames = no_pod_names
    protection: Protection = field(default_factory=Protection)

    def subjects(self, found: Sequence[Found]) -> list[Subject]:
        """Processes, with their sizes in bytes, as policy and audit log see them."""
        return [Subject(each.ref, each.size, self.pod_names, each.cgroup) for each in found]

    def check(self, ask: Ask) -> None:
        """Before a request is even decoded: raises NotPermitted where the caller may do nothing by this method."""
        if self.policy.grant(ask.caller, ask.method) is None:
            raise self.refuse(ask)

    def grant(self, ask: Ask) -> Grant:
        """Before the target is looked for: what the caller may do to its kind. Raises NotPermitted."""
        grant = self.policy.grant(ask.caller, ask.method, ask.kind)
        if grant is None:
            raise self.refuse(ask)
        return grant

    async def admit(self, ask: Ask, grant: Grant, found: Sequence[Found]) -> Ticket | None:
        """Before the first signal: every process of the target, with its size in bytes, is allowed, counted and durably recorded.

        Returns None for a dry run, which is only judged. Raises Refused: then nothing may be signalled.
        """
        subjects = self.subjects(found)
        if not all(may(grant, subject, gone=len(subjects) > 1) for subject in subjects):
            raise self.refuse(ask)
        if ask.dry_run:
            return None
        if ask.kill:
            self.breaker.admit(ask, grant, subjects)
        return Ticket(self, ask, grant, await self.audit.intent(ask, subjects))

    def refuse(self, ask: Ask) -> NotPermitted:
        """The one answer to who may not, whether or not what was asked for exists; recorded."""
        refusal = NotPermitted(
            f"{ask.caller.name} may not do this by {ask.method}, or there is no such target; nothing was signalled",
            "ask who keeps the agent's access policy; `mrelease policy check` explains a decision",
        )
        self.audit.refused(ask, refusal)
        return refusal
