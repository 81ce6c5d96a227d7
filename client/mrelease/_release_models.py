"""What streams of ReleaseService give: how far an operation is, and what a Reclaim does. Fields are documented in ``proto/mrelease/v1``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from mrelease import _text
from mrelease._enums import PressureKind
from mrelease._models import NodeMemory, NodeRef, ReleaseResult


@dataclass(frozen=True, slots=True)
class ReleaseProgress:
    """How far an operation is: of ``before_bytes`` of the target, ``held_bytes`` are not proven back yet."""

    before_bytes: int
    held_bytes: int
    processes: int
    processes_done: int
    elapsed_duration: timedelta

    def __str__(self) -> str:
        return f"{_text.share(self.held_bytes, self.before_bytes)} held after {_text.duration(self.elapsed_duration)}"


@dataclass(frozen=True, slots=True)
class PressureGoal:
    """Memory pressure of the node below ``percent`` of the time, measured over ``window`` (100 ms to 10 s) after each death."""

    percent: float
    kind: PressureKind = PressureKind.SOME
    window: timedelta = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class ReclaimStarted:
    """The candidate with this index is killed next, or would be; ``missing``: of the goal, bytes or hundredths of a percent."""

    index: int
    missing: int


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Why a candidate was not killed: nothing of it was signalled. ``reason`` is the name of an ``ErrorReason``."""

    reason: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class ReclaimedCandidate:
    """What became of the candidate with this index: exactly one of ``result`` and ``passed_over`` is there."""

    index: int
    result: ReleaseResult | None
    passed_over: PassedOver | None


@dataclass(frozen=True, slots=True)
class ReclaimSummary:
    """The end of a Reclaim. Of a dry run ``released_bytes`` is what those who would die hold, ``candidates_killed`` how many they are."""

    goal_met: bool
    released_bytes: int
    candidates_killed: int
    candidates_passed_over: int
    node_memory_before: NodeMemory | None
    node_memory_after: NodeMemory | None
    node: NodeRef

    def __str__(self) -> str:
        goal = "goal met" if self.goal_met else "goal not met"
        count = f"{self.candidates_killed} candidate{'' if self.candidates_killed == 1 else 's'}"
        return f"{goal}: {_text.size(self.released_bytes)} back from {count}"


#: What a Reclaim streams, the summary last.
ReclaimEvent: TypeAlias = ReclaimStarted | ReclaimedCandidate | ReclaimSummary
