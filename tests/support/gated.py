"""Guard and orders of the tests that look at the gate alone: policy, breaker and audit log in one, as strict as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from mrelease.v1 import target_pb2
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.gate import Ask, Gate, Grant
from mrelease_agent.guard.refusals import AuditUnavailable, OverLimit
from mrelease_agent.guard.subject import Subject
from mrelease_agent.linux.capabilities import Feature, probe
from mrelease_agent.reaping.aid import Aids
from mrelease_agent.reaping.outcome import Boost
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.report import Done, Plan
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.rpc.execution import Execution, Order
from mrelease_agent.targets.plugin_kinds import Kinds
from mrelease_agent.targets.plugins import TargetPlugin
from mrelease_agent.telemetry.metrics import Metrics

CALLER = Caller("mtls", uris=("spiffe://cluster/preemptor",))


CAPABILITIES = probe(nice=None)


@dataclass
class Guard:
    """Policy, breaker and audit log in one, as strict as it is told; remembers what each was asked, in order."""

    granted: bool = True
    covered: frozenset[int] | None = None
    allowed: int = 1000
    #: Of the intents, in order, whether each can be recorded; those beyond can.
    records: tuple[bool, ...] = ()
    unrestricted: bool = False
    events: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    results: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    _intents: int = 0

    def grant(self, caller: Caller, method: str, kind: str = "") -> Grant | None:
        assert caller is CALLER
        assert method
        assert kind or method
        return self if self.granted else None

    def covers(self, subject: Subject) -> bool:
        may = self.covered is None or subject.ref.pid in self.covered
        self.events.append(("covered" if may else "denied", subject.ref.pid))
        return may

    def admit(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        assert ask.kill
        assert grant is self
        if len(subjects) > self.allowed:
            raise OverLimit("too many", "later", limit="max_kills", scope="caller", retry_after=3.0)
        self.allowed -= len(subjects)
        self.events += [("counted", subject.ref.pid) for subject in subjects]

    async def intent(self, ask: Ask, subjects: Sequence[Subject]) -> int:
        assert not ask.dry_run
        await self._record(subjects)
        return self._intents

    async def more(self, intent: int, ask: Ask, subjects: Sequence[Subject]) -> None:
        assert intent
        assert ask.caller is CALLER
        await self._record(subjects)

    async def _record(self, subjects: Sequence[Subject]) -> None:
        await asyncio.sleep(0)
        number, self._intents = self._intents, self._intents + 1
        if number < len(self.records) and not self.records[number]:
            raise AuditUnavailable("the audit log cannot be written; nothing was signalled", "make room")
        self.events += [("recorded", subject.ref.pid) for subject in subjects]

    def result(self, intent: int, ask: Ask, done: Done | None, error: str) -> None:  # noqa: ARG002
        self.results.append((intent, error))

    def refused(self, ask: Ask, refusal: Exception) -> None:  # noqa: ARG002
        self.events.append(("refused", 0))


class Counter:
    """The breaker's half of a Guard: both protocols have a method `more`."""

    def __init__(self, guard: Guard) -> None:
        self.admit = guard.admit
        self._guard = guard

    def more(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        assert ask.kill
        assert grant is self._guard
        self._guard.events += [("counted", subject.ref.pid) for subject in subjects]


@contextlib.contextmanager
def sleepers(count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        made: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            made.append(stack.enter_context(subprocess.Popen(["/bin/sleep", "1000"])))
            stack.callback(made[-1].kill)
        yield made


async def carry_out(guard: Guard, order: Order, plugin: TargetPlugin | None = None) -> Done:
    side, reapers = Reapers(1, 1), Reapers(1, 1)
    booster = Booster(None)
    aids = Aids(booster, side, Metrics().step)
    tools = Tools(reapers, side, can_release=CAPABILITIES.has(Feature.PROCESS_MRELEASE))
    gate = Gate(policy=guard, breaker=Counter(guard), audit=guard)
    try:
        kinds = Kinds()
        if plugin is not None:
            await kinds.add("demo", lambda: (plugin, "demo"))
        return await Execution(CAPABILITIES, tools, aids, Metrics(), gate, kinds).run(order)
    finally:
        await aids.close()
        booster.close()
        side.close()
        reapers.close()


def order_for(target: target_pb2.Target, *, kill: bool = True, dry: bool = False, grace: float = 0.0) -> Order:
    plan = Plan(kill=kill, wait_for_exit=True, timeout=10.0, reap_delay=0.001, grace=grace, boost=Boost.NONE)
    return Order(target, plan, validate_only=dry, caller=CALLER)
