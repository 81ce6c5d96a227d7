"""A rule of the policy, made ready to decide: each part of it is one question that is answered by yes or no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mrelease_agent.guard.caller import Caller


class Facts(Protocol):
    """What a rule may ask about a process: guard.subject.Subject, or somebody's idea of one. Each may raise ProcessGoneError."""

    @property
    def cgroup(self) -> str:
        """Path in the hierarchy that counts memory."""
        ...

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name of its pod, where both are known."""
        ...

    @property
    def uids(self) -> frozenset[int]:
        """All its user ids."""
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one caller may kill by one rule: in any ``window`` (seconds) at most so many processes and bytes; None: any number."""

    rule: str
    max_kills: int | None
    max_bytes: int | None
    window: float


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a process. ``key`` is its name in the file, ``values`` what the file lists there."""

    key: str
    values: tuple[str, ...]
    holds: Callable[[Facts], bool]


@dataclass(frozen=True, slots=True)
class CallerTest:
    """One way to recognise a caller. ``text`` says it as the file does."""

    text: str
    fits: Callable[[Caller], bool]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule. ``methods`` and ``kinds``: None where all are meant."""

    name: str
    callers: tuple[CallerTest, ...]
    methods: frozenset[str] | None
    kinds: frozenset[str] | None
    conditions: tuple[Condition, ...]
    limit: Limit | None

    def knows(self, caller: Caller) -> bool:
        """Whether it is for this caller."""
        return any(test.fits(caller) for test in self.callers)

    def has_method(self, method: str) -> bool:
        """Whether it is for this method."""
        return self.methods is None or method in self.methods

    def has_kind(self, kind: str) -> bool:
        """Whether targets may be named like this; an empty kind is a request that names none."""
        return not kind or self.kinds is None or kind in self.kinds or kind.partition(":")[0] in self.kinds

    def covers(self, facts: Facts) -> bool:
        """Whether it is for this process."""
        return all(condition.holds(facts) for condition in self.conditions)
