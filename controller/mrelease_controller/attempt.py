"""One look at a case, at the agent of its node: ask, and release what is dying. Nothing here decides that somebody should die."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mrelease import AsyncClient, Container, MreleaseError, NodeRef, Outcome, Pod, ProcessInfo, ReleaseResult, Verdict, errors
from mrelease_controller.cases import Case, Kind
from mrelease_controller.config import Settings

#: Rows that are read of a pod: who holds most comes first.
_ROWS: Final = 200


class Finding(Enum):
    """What came of a look. The values are labels of metrics."""

    NOTHING = "nothing"  # no process, or none that holds memory
    RELEASED = "released"
    HELD = "held"  # asked for, and not all of it is back
    ALIVE = "alive"  # nobody has killed it yet
    WOULD = "would"  # dry run: would have been asked for
    UNREACHABLE = "unreachable"  # no agent, or not now
    LIMITED = "limited"  # the controller's own budget of requests is used up
    REFUSED = "refused"  # the agent does not do this for the controller, or not to this target
    FAILED = "failed"  # the answer is missing


_MEANINGS: Final[tuple[tuple[type[MreleaseError] | tuple[type[MreleaseError], ...], Finding], ...]] = (
    (errors.TargetNotFound, Finding.NOTHING),
    (errors.NotDying, Finding.ALIVE),
    ((errors.Unavailable, errors.Unauthenticated), Finding.UNREACHABLE),
    (errors.OutcomeUnknown, Finding.FAILED),
)


@dataclass(frozen=True, slots=True)
class Order:
    """What may be done about a case. ``attempt``: its number, a part of the request's id. ``may_kill``: whether what still runs may die:
    asked only then, and again at the last moment."""

    case: Case
    attempt: int
    dry_run: bool
    may_kill: Callable[[], Awaitable[bool]]
    #: Takes one from the budget of requests: seconds to wait, 0 where it may be made now.
    admit: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. ``asked``: whether a request that changes something was made; ``wait``: seconds, where the budget is used up."""

    finding: Finding
    processes: tuple[ProcessInfo, ...] = ()
    result: ReleaseResult | None = None
    error: MreleaseError | None = None
    asked: bool = False
    killed: bool = False
    wait: float = 0.0
    #: What the processes held before.
    held_bytes: int = 0


def request_id(case: Case, method: str, attempt: int) -> str:
    """The same for the same request, whoever of the controllers makes it, and whichever run: an agent joins it, or repeats its result."""
    return f"controller:{method}:{case.key}:{attempt}"


async def look(client: AsyncClient, order: Order, settings: Settings) -> Report:
    """Look at a case, and do what may be done. Raises nothing of the SDK's."""
    processes: tuple[ProcessInfo, ...] = ()
    try:
        target = Container(order.case.container) if order.case.container else Pod(order.case.uid)
        listed = await client.list_processes(limit=_ROWS, within=target)
        processes = tuple(each for each in listed if not each.protection and each.reclaimable_bytes)
        held = sum(each.reclaimable_bytes for each in processes)
        if held < max(settings.min_bytes, 1):
            return Report(Finding.NOTHING)
        return await _act(client, target, order, settings, processes, held)
    except MreleaseError as error:
        # A request with the same id was another one, as before the configuration changed: the next attempt has a new id.
        again = isinstance(error, errors.RequestIdReused)
        return Report(_meaning(error), processes, error=error, asked=again, held_bytes=sum(each.reclaimable_bytes for each in processes))


async def _act(
    client: AsyncClient, target: Pod | Container, order: Order, settings: Settings, processes: tuple[ProcessInfo, ...], held: int
) -> Report:
    node, reason = NodeRef(order.case.node), why(order.case)
    if order.dry_run:
        would = await client.release(target, node=node, reason=reason, validate_only=True)
        return Report(Finding.WOULD, processes, would, held_bytes=held)
    if wait := order.admit():
        return Report(Finding.LIMITED, processes, wait=wait)
    killed = False
    try:
        result = await client.release(
            target, node=node, timeout=settings.timeout, reason=reason, request_id=request_id(order.case, "release", order.attempt)
        )
    except errors.NotDying:
        if not await order.may_kill():
            raise
        killed = True
        result = await client.kill_and_release(
            target, node=node, timeout=settings.timeout, reason=reason, request_id=request_id(order.case, "kill", order.attempt)
        )
    return Report(finding(result), processes, result, asked=True, killed=killed, held_bytes=held)


def _meaning(error: MreleaseError) -> Finding:
    for kinds, meaning in _MEANINGS:
        if isinstance(error, kinds):
            return meaning
    return Finding.REFUSED


def finding(result: ReleaseResult) -> Finding:
    """What a result means. Where some of a pod is alive and the rest is released, the rest is."""
    if result.is_released:
        return Finding.RELEASED
    if any(each.outcome is Outcome.HELD or each.outcome is Outcome.PARTIAL for each in result.processes):
        return Finding.HELD
    alive = any(each.outcome is Outcome.NOT_DYING for each in result.processes)
    if alive:
        return Finding.RELEASED if result.released_bytes else Finding.ALIVE
    return Finding.WOULD if result.verdict is Verdict.VALIDATED else Finding.HELD


def why(case: Case) -> str:
    """For the agents' audit log. The same for every attempt: it is a part of the request."""
    words = {
        Kind.TERMINATING: "is Terminating past its grace period",
        Kind.CONTAINER: "has a container that was killed",
        Kind.DELETED: "was deleted",
    }
    return f"mrelease-controller: pod {case.title} {words[case.kind]}"
