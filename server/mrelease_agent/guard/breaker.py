"""The breaker: how much may be killed in a window, by a caller, on this node, and of what comes back again and again.

It is asked before anything is signalled. What it refuses it does not count; what it admits stays counted, whatever becomes of it: a process
that turned out to be gone, or an operation that could not be recorded. It knows nothing of the time before the agent's start.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from mrelease_agent.config.values import format_duration
from mrelease_agent.guard.gate import Ask, Grant
from mrelease_agent.guard.policy.rules import Limit
from mrelease_agent.guard.refusals import OverLimit
from mrelease_agent.guard.subject import Subject
from mrelease_agent.guard.window import Table, Window
from mrelease_agent.linux.procfs import ProcessGoneError

_NS: Final = 1_000_000_000
_TICK: Final = _NS // os.sysconf("SC_CLK_TCK")
_NEVER: Final = 1 << 63
Scope = Literal["caller", "node", "target"]
#: How many are told apart at once.
_KEYS: Final[Mapping[Scope, int]] = {"node": 1, "caller": 1024, "target": 4096}
#: Every limit by its name, as in errors and metrics, with what it is for.
SCOPES: Final[Mapping[str, Scope]] = {
    "max_kills": "node",
    "max_bytes": "node",
    "max_kills_per_caller": "caller",
    "max_bytes_per_caller": "caller",
    "max_kills_per_target": "target",
    "policy_kills": "caller",
    "policy_bytes": "caller",
}
_CONFIGURED: Final = [name for name in SCOPES if name.startswith("max_")]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much in any ``window`` of seconds; 0: any number. Kills are processes, bytes what their death gives back.

    ``max_kills_per_target``: how often what came back after a kill may be killed again.
    """

    window: float = 60.0
    max_kills: int = 0
    max_bytes: int = 0
    max_kills_per_caller: int = 0
    max_bytes_per_caller: int = 0
    max_kills_per_target: int = 0


class _Target(Window):
    """What was killed under one name. It counts a kill only where something of it started after the last kill that counted."""

    __slots__ = ("last",)

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.last = 0

    def add(self, amount: int, now: int) -> None:
        super().add(amount, now)
        self.last = now

    def is_idle(self, now: int) -> bool:
        return self.last + self._length <= now


@dataclass(slots=True)
class _Charge:
    """So much on one window. ``amount`` is what has to fit, with what the same order has put on it before; ``counted`` its own."""

    limit: str
    most: int
    seconds: float
    amount: int
    counted: int
    key: object
    window: Window
    table: Table[Window]

    def commit(self, now: int) -> None:
        """Count it."""
        if self.counted:
            self.window.add(self.counted, now)
            self.table.put(self.key, self.window)


class _Order:
    """What an order would kill; reads only what a limit asks for."""

    def __init__(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        self.ask = ask
        self.caller = ask.caller.name
        self.subjects = subjects
        self.by_policy = _by_policy(grant, subjects)

    @cached_property
    def target(self) -> object:
        """What comes back when it is killed."""
        return _target(self.ask, self.subjects)

    @cached_property
    def youngest(self) -> int:
        """No later than this started the youngest of them, in nanoseconds since boot."""
        return max(((subject.ref.stat.start_time + 1) * _TICK for subject in self.subjects), default=0)

    @cached_property
    def bytes(self) -> int:
        """What their death gives back."""
        return _bytes(self.subjects)


class KillBreaker:
    """See guard.gate.Breaker.

    ``tell`` is called with the name of the limit for each refusal; ``clock`` says CLOCK_BOOTTIME in nanoseconds.
    """

    def __init__(
        self,
        limits: Limits,
        tell: Callable[[str], None] = lambda _: None,
        clock: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        self._seconds = limits.window
        self._tell = tell
        self._clock = clock
        #: Those that are set.
        self._most = {name: most for name in _CONFIGURED if (most := getattr(limits, name)) > 0}
        length = int(limits.window * _NS)
        self._tables: dict[str, Table[Window]] = {
            name: Table(_KEYS[SCOPES[name]], lambda: _Target(length)) if SCOPES[name] == "target" else _table(SCOPES[name], length)
            for name in self._most
        }
        #: By the length of their window, of which there are as many as the policy has.
        self._by_length: dict[int, Table[Window]] = {}
        self._lock = threading.Lock()

    def admit(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        """Count these kills. Raises OverLimit: then none is counted."""
        order = _Order(ask, grant, subjects)
        with self._lock:
            now = self._clock()
            charges = self._charges(order, now)
            over = [(charge, wait) for charge in charges if (wait := charge.window.wait(charge.amount, charge.most, now)) != 0]
            if not over:
                self._commit(charges, now)
                return
        worst, wait = max(over, key=lambda each: _order_of(each[1]))
        self._tell(worst.limit)
        raise _refusal(worst, wait)

    def more(self, ask: Ask, grant: Grant, subjects: Sequence[Subject]) -> None:
        """Count kills that cannot be refused any more: the next ones are."""
        order = _Order(ask, grant, subjects)
        with self._lock:
            now = self._clock()
            self._commit([charge for charge in self._charges(order, now) if SCOPES[charge.limit] != "target"], now)

    def state(self) -> dict[str, tuple[int, int]]:
        """What counts now and the limit, by its name, for each that is set; of callers and targets, of the one with most."""
        with self._lock:
            now = self._clock()
            return {name: (max(window.used(now) for window in self._tables[name].windows()), most) for name, most in self._most.items()}

    def _commit(self, charges: Iterable[_Charge], now: int) -> None:
        for charge in charges:
            charge.commit(now)

    def _charges(self, order: _Order, now: int) -> list[_Charge]:
        found: list[_Charge] = []
        for name, most in self._most.items():
            scope = SCOPES[name]
            key = order.target if scope == "target" else order.caller if scope == "caller" else ""
            table = self._tables[name]
            window = table.get(key, now)
            if isinstance(window, _Target):
                amount = int(order.youngest > window.last)
            else:
                amount = order.bytes if "bytes" in name else len(order.subjects)
            found.append(_Charge(name, most, self._seconds, amount, amount, key, window, table))
        return found + self._policy_charges(order, now)

    def _policy_charges(self, order: _Order, now: int) -> list[_Charge]:
        """Processes that the same limits are for have to fit within one of these."""
        taken: list[_Charge] = []
        for limits, subjects in order.by_policy.items():
            ways = [[self._policy_charge(order.caller, limit, kind, subjects, taken, now) for kind in _kinds(limit)] for limit in limits]
            taken += min(ways, key=lambda way: max(_order_of(charge.window.wait(charge.amount, charge.most, now)) for charge in way))
        return taken

    def _policy_charge(
        self, caller: str, limit: Limit, kind: str, subjects: Sequence[Subject], taken: Iterable[_Charge], now: int
    ) -> _Charge:
        length = int(limit.window * _NS)
        table = self._by_length.setdefault(length, _table("caller", length))
        key = (caller, limit.rule, kind)
        amount = len(subjects) if kind == "policy_kills" else _bytes(subjects)
        most = (limit.max_kills if kind == "policy_kills" else limit.max_bytes) or 0
        before = [charge for charge in taken if charge.key == key and charge.table is table]
        window = before[0].window if before else table.get(key, now)
        return _Charge(kind, most, limit.window, amount + sum(charge.counted for charge in before), amount, key, window, table)


def _table(scope: Scope, length: int) -> Table[Window]:
    return Table(_KEYS[scope], lambda: Window(length))


def _kinds(limit: Limit) -> list[str]:
    return [kind for kind, most in (("policy_kills", limit.max_kills), ("policy_bytes", limit.max_bytes)) if most is not None]


def _order_of(wait: int | None) -> int:
    return _NEVER if wait is None else wait


def _bytes(subjects: Iterable[Subject]) -> int:
    return sum(subject.size for subject in subjects)


def _target(ask: Ask, subjects: Sequence[Subject]) -> object:
    """What comes back when it is killed: a pod, whose container is started anew in it; a container; a cgroup; outside of these a command.

    All processes of one order belong to one of these, so one of them tells.
    """
    if ask.kind == "cgroup" or not subjects:
        return ask.target
    first = subjects[0]
    try:
        known, cgroup = first.membership, first.cgroup
        if known.pod_uid or known.container_id:
            return known.pod_uid or known.container_id
        return first.identity.command, os.fstat(first.ref.proc).st_uid, cgroup
    except ProcessGoneError:
        return first.identity.command


def _by_policy(grant: Grant, subjects: Sequence[Subject]) -> dict[tuple[Limit, ...], list[Subject]]:
    """Processes by the limits that the policy has for them."""
    found: dict[tuple[Limit, ...], list[Subject]] = {}
    limits_of: Callable[[Subject], tuple[Limit, ...]] | None = getattr(grant, "limits", None)
    if limits_of is None:
        return found
    for subject in subjects:
        with contextlib.suppress(ProcessGoneError):
            limits = limits_of(subject)
            if limits:
                found.setdefault(limits, []).append(subject)
    return found


def _refusal(charge: _Charge, wait: int | None) -> OverLimit:
    what = "bytes" if "bytes" in charge.limit else "processes"
    name = "the access policy" if charge.limit.startswith("policy_") else charge.limit
    whose = {"node": "on this node", "caller": "for one caller", "target": "of what comes back again and again"}[SCOPES[charge.limit]]
    said = f"{name} lets {charge.most} {what} be killed in {format_duration(charge.seconds)} {whose}"
    if wait is None:
        message, remedy = (
            f"{said}, and {charge.amount} are asked for at once; nothing was signalled",
            "name fewer, or have the limit raised",
        )
        return OverLimit(message, remedy, limit=charge.limit, scope=SCOPES[charge.limit], retry_after=None)
    seconds = (wait // 1_000_000 + 1) / 1000
    remedy = f"try again in {seconds:g} s; a caller that meets this may be running wild"
    return OverLimit(f"{said}; nothing was signalled", remedy, limit=charge.limit, scope=SCOPES[charge.limit], retry_after=seconds)
