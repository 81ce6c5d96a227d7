"""The decision: which rules are for a caller, a method and a kind of target, and which processes they cover.

Rules only allow. So their order means nothing, one more rule never takes anything away, and one more condition never adds anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.policy.rules import CompiledRule, Facts, Limit

#: Decisions that are remembered. More callers than that make it forget all of them: it is only time that they cost.
_REMEMBERED: Final = 1024


@dataclass(frozen=True, slots=True)
class RuleGrant:
    """What some rules give together; see guard.gate.Grant. It stays what it is when the policy changes."""

    rules: tuple[CompiledRule, ...]
    #: Whether one of them has no condition, and whether one such has no limit either.
    unrestricted: bool
    unlimited: bool

    def covers(self, subject: Facts) -> bool:
        """Whether one of the rules covers this process. Raises ProcessGoneError."""
        return self.unrestricted or any(rule.covers(subject) for rule in self.rules)

    def limits(self, subject: Facts) -> tuple[Limit, ...]:
        """Limits under which this process may be killed: it is enough to be within one of them. Empty: there is none.

        Of all rules that cover it. One of them without a limit lets it be killed without one. Raises ProcessGoneError.
        """
        if self.unlimited:
            return ()
        limits = [rule.limit for rule in self.rules if rule.covers(subject)]
        return () if None in limits else tuple(limit for limit in limits if limit is not None)


class AccessPolicy:
    """A whole policy. Belongs to no thread: what it remembers is only what it would decide again."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self.rules = tuple(rules)
        self._grants: dict[tuple[object, ...], RuleGrant | None] = {}

    def grant(self, caller: Caller, method: str, kind: str = "") -> RuleGrant | None:
        """What this caller may do by this method, to this kind of target; None: nothing."""
        # A caller without its pid and fingerprint, which no rule asks for and which differ with each process and certificate.
        key = (caller.transport, caller.uid, caller.gid, caller.uris, caller.dns, caller.common_name, method, kind)
        try:
            return self._grants[key]
        except KeyError:
            pass
        found = tuple(rule for rule in self.rules if rule.has_method(method) and rule.has_kind(kind) and rule.knows(caller))
        whole = [rule for rule in found if not rule.conditions]
        grant = RuleGrant(found, bool(whole), any(rule.limit is None for rule in whole)) if found else None
        if len(self._grants) >= _REMEMBERED:
            self._grants.clear()
        self._grants[key] = grant
        return grant
