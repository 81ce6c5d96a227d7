"""Why a policy decides as it does, rule by rule, for a process of which not everything has to be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mrelease_agent.config.values import format_duration
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy.decide import AccessPolicy
from mrelease_agent.guard.policy.rules import CompiledRule, Limit

Says = Literal["allows", "depends", "no"]
Decision = Literal["ALLOWED", "DEPENDS", "DENIED"]

#: Methods whose requests name a target, and those to which targets mean nothing.
_WITH_TARGET: Final = frozenset({"KillAndRelease", "Release", "Reclaim"})
_WITHOUT_TARGET: Final = frozenset({"GetNode", "WatchRelease"})


class UnknownFactError(Exception):
    """It was not said."""


@dataclass(frozen=True, slots=True)
class Supposed:
    """A process that somebody asks about; what is None was not said."""

    namespace: str | None = None
    path: str | None = None
    user: int | None = None

    @property
    def cgroup(self) -> str:
        """See Facts. Raises UnknownFactError."""
        return _said(self.path)

    @property
    def pod(self) -> tuple[str, str]:
        """See Facts; the pod's name is not asked for by any rule. Raises UnknownFactError."""
        return _said(self.namespace), ""

    @property
    def uids(self) -> frozenset[int]:
        """See Facts. Raises UnknownFactError."""
        if self.user is None:
            raise UnknownFactError
        return frozenset({self.user})


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule says, and why."""

    rule: str
    says: Says
    because: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and what each rule has to do with it. ``DEPENDS``: on what was not said of the target."""

    decision: Decision
    reasons: tuple[Reason, ...]


def explain(policy: AccessPolicy, caller: Caller, method: str, kind: str, supposed: Supposed) -> Explanation:
    """Decide as the agent does: one rule that allows is enough."""
    reasons = tuple(_reason(rule, caller, method, kind, supposed) for rule in policy.rules)
    said = {reason.says for reason in reasons}
    return Explanation("ALLOWED" if "allows" in said else "DEPENDS" if "depends" in said else "DENIED", reasons)


def limit_text(limit: Limit | None) -> str:
    """A limit in words; empty where there is none."""
    if limit is None:
        return ""
    kills = [] if limit.max_kills is None else [f"{limit.max_kills} kill{'s' * (limit.max_kills != 1)}"]
    size = [] if limit.max_bytes is None else [f"{limit.max_bytes / 1024**3:.4g} GiB"]
    return f"{' and '.join(kills + size)} in {format_duration(limit.window)}"


def _reason(rule: CompiledRule, caller: Caller, method: str, kind: str, supposed: Supposed) -> Reason:
    known = next((test.text for test in rule.callers if test.fits(caller)), None)
    if known is None:
        return Reason(rule.name, "no", f"the caller is none of: {_either([test.text for test in rule.callers])}")
    if not rule.has_method(method):
        return Reason(rule.name, "no", f"the method is none of: {', '.join(sorted(rule.methods or ()))}")
    if not rule.has_kind(kind):
        return Reason(rule.name, "no", f"the kind of target is none of: {', '.join(sorted(rule.kinds or ()))}")
    met, open_ = [known], list[str]()
    if rule.kinds is not None and not kind and method in _WITH_TARGET:
        open_.append(f"the kind of target is one of: {', '.join(sorted(rule.kinds))}")
    for condition in () if method in _WITHOUT_TARGET else rule.conditions:
        values = ", ".join(condition.values)
        try:
            if not condition.holds(supposed):
                return Reason(rule.name, "no", f"outside of {condition.key}: {values}")
            met.append(f"{condition.key}: {values}")
        except UnknownFactError:
            open_.append(f"{condition.key}: {values}")
    limit = limit_text(rule.limit)
    if open_:
        return Reason(rule.name, "depends", f"where {'; '.join(open_)}")
    return Reason(rule.name, "allows", "; ".join([*met, *([f"at most {limit}"] if limit else [])]))


def _either(texts: Sequence[str]) -> str:
    return " | ".join(texts)


def _said(fact: str | None) -> str:
    if fact is None:
        raise UnknownFactError
    return fact
