"""From a checked request to a finished operation on its target: one process, or all of a container, pod or cgroup."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mrelease.v1 import target_pb2
from mrelease_agent.guard.caller import LOCAL, Caller
from mrelease_agent.guard.gate import Ask, Found, Gate, Grant, Ticket
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.cgroup_tree import WalkLimitError
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.aid import Aids
from mrelease_agent.reaping.errors import LimitError, NotDyingError
from mrelease_agent.reaping.measuring import Measured
from mrelease_agent.reaping.operation import Operation
from mrelease_agent.reaping.outcome import Outcome, Proof, Step, verdict
from mrelease_agent.reaping.progress import Progress
from mrelease_agent.reaping.proving import CHARGE_SLACK
from mrelease_agent.reaping.report import Charge, Done, Plan, Report
from mrelease_agent.reaping.set_operation import SetOperation
from mrelease_agent.reaping.tools import Tools
from mrelease_agent.rpc.allowed_members import AllowedMembers
from mrelease_agent.rpc.custom_name import custom_text, kind_of
from mrelease_agent.rpc.errors import RpcError, limit
from mrelease_agent.rpc.group_target import GroupMembers, empty, find, told
from mrelease_agent.rpc.process_target import admitted, not_dying, not_found, not_permitted
from mrelease_agent.rpc.refusals import refusals, veiled
from mrelease_agent.rpc.traced import Asked, operation
from mrelease_agent.targets.group import Group
from mrelease_agent.telemetry.logs import event, event_soon
from mrelease_agent.telemetry.metrics import Metrics
from mrelease_agent.telemetry.spans import Traces

if TYPE_CHECKING:
    from mrelease_agent.targets.plugin_kinds import Kinds

_log = logging.getLogger("mrelease")
#: Of so many processes of a target, the biggest, it is found out in full what holds their memory: it can take 50 ms for each.
_THOROUGH = 32
#: Seconds for which the charge of a group may take to fall after all its processes have given their memory back.
_SETTLE = 0.25


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with a target; ``field`` is its path in the request, for errors, ``method`` the RPC, for metrics and log."""

    target: target_pb2.Target
    plan: Plan
    reason: str = ""
    validate_only: bool = False
    field: str = "target"
    method: str = "KillAndRelease"
    caller: Caller = LOCAL
    request_id: str = ""

    def ask(self) -> Ask:
        """The order as the guard sees it."""
        return Ask(
            self.caller,
            self.method,
            kind_of(self.target),
            shown(self.target),
            kill=self.plan.kill,
            dry_run=self.validate_only,
            reason=self.reason,
            request_id=self.request_id,
        )


def shown(target: target_pb2.Target) -> str:
    """A target in one short text, as it was asked for: for people who read the audit log."""
    kind = target.WhichOneof("kind")
    if kind == "process":
        process = target.process
        identity = f":{process.pidfd_inode}" if process.pidfd_inode else f"@{process.start_time_ticks}" if process.start_time_ticks else ""
        return f"process {process.pid}{identity}" + (f" in container {process.container_id}" if process.container_id else "")
    if kind == "pod":
        return " ".join([f"pod {target.pod.uid}", *target.pod.containers])
    if kind == "container":
        return f"container {target.container.id}"
    return custom_text(target.custom) if kind == "custom" else f"cgroup {target.cgroup.path}"


@contextlib.contextmanager
def limits() -> Generator[None, None, None]:
    """Before anything is signalled, a failing system call is a limit of the agent's process."""
    try:
        yield
    except OSError as error:
        raise limit(error) from None


class Execution:
    """Carries orders out, counts and logs what became of them."""

    def __init__(
        self,
        capabilities: Capabilities,
        tools: Tools,
        aids: Aids,
        metrics: Metrics,
        gate: Gate | None = None,
        kinds: Kinds | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._capabilities = capabilities
        self._tools = tools
        self._aids = aids
        self._metrics = metrics
        self._gate = gate or Gate()
        self._kinds = kinds
        self._traces = traces or Traces()

    @property
    def inode_known(self) -> bool:
        """Whether pidfd inode numbers identify processes here."""
        return self._capabilities.has(Feature.PIDFD_INODE)

    @property
    def exhausted(self) -> bool:
        """Whether every reaper thread is stuck."""
        return self._tools.reapers.exhausted

    async def run(self, order: Order, progress: Progress | None = None) -> Done:
        """Carry ``order`` out. Raises RpcError: then nothing was signalled."""
        if order.target.HasField("process"):
            return await self._one(order, progress or Progress())
        return await self._many(order, progress or Progress())

    async def _one(self, order: Order, progress: Progress) -> Done:
        start = time.monotonic()
        ask, grant = self._granted(order)
        with veiled(self._gate, ask, grant), limits():
            process = order.target.process
            ref = await admitted(process, self._gate.protection, kill=order.plan.kill, inode_known=self.inode_known, field=order.field)
        begun = time.monotonic()
        self._metrics.step("resolve", begun - start)
        ticket = await self._admit(ask, grant, [Found(ref)])
        if ticket is None:
            return self._validated([ref], order.reason)
        asked = Asked(order.plan.kill, ask.kind, order.request_id, start, begun, time.monotonic())
        with _recorded(ticket):
            report = await self._release(ref, order, progress)
            return self._done(Done([report]), order, begun, ticket, asked)

    async def _release(self, ref: ProcessRef, order: Order, progress: Progress) -> Report:
        pid = ref.pid
        try:
            operation = progress.track(Operation(ref, order.plan, self._tools, self._aids.make(order.plan.boost)))
            return await operation.run()
        except NotDyingError:
            raise not_dying(f"process {pid}", pid=pid) from None
        except LimitError as error:
            raise limit(error.cause) from None
        except ProcessLookupError:
            raise not_found(pid) from None
        except PermissionError:
            raise not_permitted(pid) from None

    async def _many(self, order: Order, progress: Progress) -> Done:
        start = time.monotonic()
        ask, grant = self._granted(order)
        if order.target.HasField("custom"):
            self._check_kind(order)
        with contextlib.ExitStack() as stack:
            with veiled(self._gate, ask, grant), limits(), told(order.field):
                members = await self._members(order)
                opened = members.groups
                for group in opened:
                    stack.enter_context(group)
                first = await members.fresh()
                if not first:
                    raise empty(order.field)
            resolved = time.monotonic()
            self._metrics.step("resolve", resolved - start)
            ticket = await self._admit(ask, grant, [Found(member.ref, member.size, member.place) for member in first])
            if ticket is None:
                return self._validated([member.ref for member in first], order.reason)
            stack.enter_context(_recorded(ticket))
            allowed = AllowedMembers(members, ticket)
            before = [group.memory_usage() for group in opened]
            begun = time.monotonic()
            asked = Asked(order.plan.kill, ask.kind, order.request_id, start, resolved, begun)
            aid = self._aids.make(order.plan.boost)

            def make(ref: ProcessRef, plan: Plan, measured: Measured) -> Operation:
                thorough = progress.tracked < _THOROUGH
                return progress.track(Operation(ref, plan, self._tools, aid, measured, thorough=thorough))

            try:
                reports = await SetOperation(allowed, order.plan, make, aid).run(first)
            except NotDyingError:
                raise not_dying("the target", field=order.field) from None
            except LimitError as error:
                raise limit(error.cause) from None
            charges = [
                Charge(group.path, held, group.memory_usage(), group.shmem())
                for group, held in zip(opened, before, strict=True)
                if held is not None and members.is_accounted
            ]
            reports += allowed.refused
            return self._done(Done(reports, charges, await _pinned(opened, reports)), order, begun, ticket, asked)

    def _check_kind(self, order: Order) -> None:
        """Raise RpcError (FAILED_PRECONDITION) where no plugin has the kind of a custom target."""
        from mrelease_agent.rpc.custom_target import check_kind  # only where they are asked for

        check_kind(self._kinds, order.target, order.field)

    async def _members(self, order: Order) -> GroupMembers:
        """Find the groups of a target, and open them. Raises GroupError, RpcError; OSError for limits."""
        target, protection = order.target, self._gate.protection
        if not target.HasField("custom"):
            return GroupMembers(await asyncio.to_thread(find, target), target, protection)
        from mrelease_agent.rpc.custom_target import custom_members

        return await custom_members(self._kinds, target, protection, inode_known=self.inode_known, field=order.field)

    def _granted(self, order: Order) -> tuple[Ask, Grant]:
        """What the caller may do to this kind of target. Raises RpcError (PERMISSION_DENIED)."""
        ask = order.ask()
        with refusals(ask):
            return ask, self._gate.grant(ask)

    async def _admit(self, ask: Ask, grant: Grant, found: list[Found]) -> Ticket | None:
        """Pass the gate with opened processes; None for a dry run. Raises RpcError: then they are closed, and nothing may be signalled."""
        try:
            with refusals(ask), limits():
                return await self._gate.admit(ask, grant, found)
        except BaseException:
            for each in found:
                each.ref.close()
            raise

    def _done(self, done: Done, order: Order, start: float, ticket: Ticket, asked: Asked) -> Done:
        """Count, record and log a finished operation, whoever still waits for it."""
        ticket.close(done)
        method, reason = order.method, order.reason or None
        self._metrics.step("total", time.monotonic() - start)
        for report in done.reports:
            self._metrics.outcome(method, report.outcome.name, report.released)
        event_soon(_log, logging.INFO, "operation", lambda: _told(done, method, reason))
        operation(self._traces, asked, done)
        return done

    def _validated(self, refs: list[ProcessRef], reason: str) -> Done:
        reports: list[Report] = []
        for ref in refs:
            with ref:
                report = Report(ref.identity, Outcome.VALIDATED, Step.GUARD)
                report.before = report.after = ref.memory()
                reports.append(report)
        event(_log, logging.INFO, "validated", pid=refs[0].pid, command=refs[0].stat.comm, processes=len(refs), reason=reason or None)
        return Done(reports)


@contextlib.contextmanager
def _recorded(ticket: Ticket) -> Generator[None, None, None]:
    """Record an operation that ends in an error: what has a ticket has a result, whatever comes."""
    try:
        yield
    except RpcError as error:
        ticket.close(None, error.details.reason)
        raise
    except BaseException:
        ticket.close(None, "INTERNAL")
        raise


async def _pinned(groups: list[Group], reports: list[Report]) -> int:
    """Anonymous memory that stays charged to groups although all who were in them have proven theirs back, in bytes.

    Of one process among many the charge is no proof, but of all of them together it is. It lags a little: it is given a moment to fall.
    """
    if not all(report.proof is not Proof.NONE for report in reports):
        return 0
    held = sum(report.before.reclaimable for report in reports if report.before is not None)
    tolerance = max(CHARGE_SLACK * len(groups), held // 100)
    pause, until = 0.001, time.monotonic() + _SETTLE
    while True:
        try:
            if any(group.members() for group in groups):
                return 0  # they came after, or are still exiting: the charge may be theirs
        except (OSError, WalkLimitError):
            return 0
        left = sum(group.anon() for group in groups)
        if left <= tolerance or time.monotonic() > until:
            return left if left > tolerance else 0
        await asyncio.sleep(pause)
        pause *= 2


def not_exhausted(execution: Execution) -> None:
    """Raise RpcError (RESOURCE_EXHAUSTED) where every reaper thread is stuck."""
    from mrelease.v1 import error_reason_pb2

    if execution.exhausted:
        raise RpcError(
            error_reason_pb2.ERROR_REASON_REAPERS_EXHAUSTED,
            "every reaper thread is stuck in the kernel; nothing was signalled",
            "try again later; `reaper_threads` in the agent's metrics tells, a process that holds mmap_lock in state D is the cause",
        )


def _told(done: Done, method: str, reason: str | None) -> dict[str, object]:
    """What the log says of a finished operation."""
    if len(done.reports) != 1 or done.charges:
        return {
            "method": method,
            "cgroups": " ".join(charge.path for charge in done.charges),
            "processes": len(done.reports),
            "verdict": verdict(report.outcome for report in done.reports).name,
            "released_bytes": done.released,
            "reason": reason,
        }
    (report,) = done.reports
    return {
        "method": method,
        "pid": report.process.pid,
        "command": report.process.command,
        "outcome": report.outcome.name,
        "errno": errno.errorcode.get(report.errno) if report.errno else None,
        "released_bytes": report.released,
        "proof": report.proof.name,
        "boost": report.boost.name if report.boost else None,
        "held_cause": report.held_cause.name if report.held_cause else None,
        "release_ms": _ms(report.release_duration),
        "exit_ms": _ms(report.exit_duration),
        "reason": reason,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
