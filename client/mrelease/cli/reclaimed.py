"""What a reclaim did, as a table for people and as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from mrelease import (
    MreleaseError,
    PressureGoal,
    ReclaimedCandidate,
    ReclaimEvent,
    ReclaimStarted,
    ReclaimSummary,
    ReleaseResult,
    Target,
    Verdict,
    _report,
    _text,
)
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.targets import name_of, target_data

_HEADER = ("CANDIDATE", "COMMAND", "VERDICT", "RELEASED", "BACK IN", "TOTAL")
_DRY_HEADER = ("CANDIDATE", "COMMAND", "VERDICT", "RECLAIMABLE", "SHMEM", "TOTAL")
_RIGHT = (3, 4, 5)


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop: exactly one of the three is there."""

    released_bytes: int | None = None
    available_bytes: int | None = None
    pressure_below: PressureGoal | None = None

    def missing(self, amount: int) -> str:
        """``ReclaimStarted.missing`` for people."""
        return _text.size(amount) if self.pressure_below is None else f"{amount / 100:.2f} %"


@dataclass(slots=True)
class Reclaimed:
    """What has happened so far."""

    candidates: Sequence[Target]
    goal: Goal
    dry_run: bool
    dealt: list[ReclaimedCandidate] = field(default_factory=list[ReclaimedCandidate])
    current: ReclaimStarted | None = None
    summary: ReclaimSummary | None = None
    error: MreleaseError | None = None
    #: What an orchestrator calls the candidates; those that are not here have the name of their target.
    titles: Mapping[Target, str] = field(default_factory=dict[Target, str])
    _wanted: int | None = None

    def name(self, index: int) -> str:
        """What people call a candidate."""
        candidate = self.candidates[index]
        return _text.printable(self.titles[candidate]) if candidate in self.titles else name_of(candidate)

    def add(self, event: ReclaimEvent) -> None:
        """Take note of what the agent says."""
        match event:
            case ReclaimStarted():
                self.current = event
                if self._wanted is None and self.goal.pressure_below is None:
                    self._wanted = event.missing
            case ReclaimedCandidate():
                self.current = None
                self.dealt.append(event)
            case ReclaimSummary():
                self.current, self.summary = None, event

    @property
    def code(self) -> ExitCode:
        """The exit code; of an unmet goal HELD where memory of the killed may still come back: then is not the time to kill more."""
        if self.error is not None:
            return exit_codes.of_error(self.error)
        if self.summary is None:
            return ExitCode.INTERNAL
        if self.summary.goal_met or self._is_unpredictable:
            return ExitCode.OK
        held = any(exit_codes.of_result(dealt.result) is ExitCode.HELD for dealt in self.dealt if dealt.result is not None)
        return ExitCode.HELD if held else ExitCode.UNMET

    @property
    def _is_unpredictable(self) -> bool:
        # What a death would do to the pressure only the death tells.
        return self.dry_run and self.goal.pressure_below is not None and self.summary is not None and self.summary.candidates_killed > 0

    def lines(self, limit: int | None = None) -> list[Text | str]:
        """The rows, what to do about what is not back, and the sum; at most the last ``limit`` rows."""
        lines = self.rows(limit)
        results = [dealt.result for dealt in self.dealt if dealt.result is not None]
        for dealt in self.dealt:
            if dealt.result is not None:
                name = self.name(dealt.index)
                lines += [f"{name}: {line}" for line in _report.charged(dealt.result)]
        lines += _report.notes([process for result in results for process in result.processes if result.verdict is not Verdict.VALIDATED])
        lines += self._passed_over()
        return [*lines, self._sum()] if self.summary is not None else lines

    def rows(self, limit: int | None = None) -> list[Text | str]:
        """The table alone; nothing where nothing has happened."""
        if not self.dealt:
            return []
        rows = list(self._rows())
        shown = rows if limit is None else rows[-limit:]
        header = _DRY_HEADER if self.dry_run else _HEADER
        lines: list[Text | str] = list(output.columns([header, *shown], right=_RIGHT, coloured=_report.VERDICT))
        if len(shown) < len(rows):
            lines.insert(1, f"{len(rows) - len(shown)} before ...")
        return lines

    def now(self) -> str:
        """Who is dying, for a terminal that waits."""
        if self.current is None:
            return ""
        name, missing = self.name(self.current.index), self.goal.missing(self.current.missing)
        return f"{name}, {self.current.index + 1} of {len(self.candidates)}: {missing} of the goal missing"

    @property
    def share(self) -> float | None:
        """How much of the goal is met, 0 to 1; None where that is not known, as of a pressure."""
        if not self._wanted or self.current is None:
            return None
        return 1 - self.current.missing / self._wanted

    def to_data(self) -> dict[str, Any]:
        """Everything for ``-o json``."""
        return {
            "candidates": [self._candidate(dealt) for dealt in self.dealt],
            "summary": None if self.summary is None else formats.to_data(self.summary),
            "error": None if self.error is None else formats.error_data(self.error),
        }

    def _candidate(self, dealt: ReclaimedCandidate) -> dict[str, Any]:
        data: dict[str, Any] = formats.to_data(dealt)
        if dealt.passed_over is not None:
            # A number of a newer agent has no name in proto3 JSON.
            number = dealt.passed_over.reason.removeprefix("UNKNOWN_")
            data["passed_over"]["reason"] = int(number) if number.isdigit() else f"ERROR_REASON_{dealt.passed_over.reason}"
        return {"target": target_data(self.candidates[dealt.index]), **data}

    def _rows(self) -> Iterator[tuple[str, ...]]:
        total = 0
        for dealt in self.dealt:
            name = self.name(dealt.index)
            if dealt.result is None:
                reason = dealt.passed_over.reason if dealt.passed_over is not None else "-"
                yield name, "-", _text.printable(reason), "-", "-", self._share(total)
                continue
            memory = [process.memory_before for process in dealt.result.processes if process.memory_before is not None]
            held = sum(each.reclaimable_bytes for each in memory)
            if self.dry_run:
                total += held
                size, other = _text.size(held), _text.size(sum(each.shmem_bytes for each in memory))
            else:
                total += dealt.result.released_bytes
                size = _text.share(dealt.result.released_bytes, max(held, dealt.result.released_bytes))
                times = [process.release_duration for process in dealt.result.processes if process.release_duration is not None]
                other = _text.duration(max(times, default=None))
            yield name, _command(dealt.result), _verdict(dealt.result), size, other, self._share(total)

    def _share(self, total: int) -> str:
        return _text.size(total) if self._wanted is None else _text.share(total, self._wanted)

    def _passed_over(self) -> list[str]:
        # One line where all were passed over alike.
        said: dict[str, list[str]] = {}
        for dealt in self.dealt:
            if dealt.passed_over is not None:
                over = dealt.passed_over
                text = over.message if over.remedy in over.message else f"{over.message} ({over.remedy})"
                said.setdefault(_text.printable(text), []).append(self.name(dealt.index))
        return [f"{', '.join(names)}: {text}" for text, names in said.items()]

    def _sum(self) -> str:
        assert self.summary is not None
        if self._is_unpredictable:
            return "the first of these would be killed; whether another one is, the pressure after it decides"
        if self.summary.goal_met and not self.dealt:
            return f"goal met already: nobody {'would be' if self.dry_run else 'was'} killed{self._available()}"
        verdict = {(True, False): "met", (False, False): "not met", (True, True): "would be met", (False, True): "would not be met"}
        goal = f"goal {verdict[self.summary.goal_met, self.dry_run]}"
        count = f"{self.summary.candidates_killed} of {len(self.candidates)} candidate{'' if len(self.candidates) == 1 else 's'}"
        passed = f", {self.summary.candidates_passed_over} passed over" if self.summary.candidates_passed_over else ""
        return f"{goal}: {_text.size(self.summary.released_bytes)} back from {count}{passed}{self._available()}"

    def _available(self) -> str:
        after = self.summary.node_memory_after if self.summary is not None else None
        if self.dry_run or self.goal.available_bytes is None or after is None:
            return ""
        return f", {_text.size(after.available_bytes)} available"


def _command(result: ReleaseResult) -> str:
    processes = result.processes
    return _text.printable(processes[0].command) if len(processes) == 1 else f"{len(processes)} processes"


def _verdict(result: ReleaseResult) -> str:
    # Of one process its outcome says more.
    return result.processes[0].outcome.name if len(result.processes) == 1 else result.verdict.name
