"""What became of each target, as a table for people and as data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from mrelease import Cgroup, MreleaseError, Process, ReleaseResult, Target, _report, _text, errors
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.targets import name_of, target_data

# Rows that a terminal is given: a container may have thousands of processes.
_ROWS = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one target: a result or an error.

    ``target`` None: its name led to none. ``title``: what its orchestrator calls it; ``place``: cells that go before those of each of its
    processes, such as its node.
    """

    target: Target | None
    result: ReleaseResult | MreleaseError
    title: str = ""
    place: tuple[str, ...] = ()

    @property
    def code(self) -> ExitCode:
        """Its exit code."""
        return exit_codes.of_error(self.result) if isinstance(self.result, MreleaseError) else exit_codes.of_result(self.result)

    @property
    def name(self) -> str:
        """Its target in one word or two."""
        return title_of(self.target, self.title)


def title_of(target: Target | None, title: str) -> str:
    """What people call a target: as its orchestrator does, else in one word or two."""
    return _text.printable(title) if title or target is None else name_of(target)


def to_data(answer: Answer) -> dict[str, Any]:
    """An answer for ``-o json``; ``target`` is a ``Target`` of the contract."""
    failed = isinstance(answer.result, MreleaseError)
    return {
        "target": None if answer.target is None else target_data(answer.target),
        "result": None if failed else formats.to_data(answer.result),
        "error": formats.error_data(answer.result) if isinstance(answer.result, MreleaseError) else None,
    }


def row_limit() -> int | None:
    """How many rows stdout is given at most; None: all."""
    return _ROWS if sys.stdout.isatty() else None


def result_table(result: ReleaseResult, *, limit: int | None = None) -> list[Text | str]:
    """``table`` of one result whose target is not known."""
    # Alone it is not named.
    return table([Answer(Cgroup("/"), result)], limit=limit)


def table(answers: Sequence[Answer], *, limit: int | None = None, places: tuple[str, ...] = ()) -> list[Text | str]:
    """One row a process, the totals, what stays charged, and the notes. At most ``limit`` rows: those where all is well go first.

    ``places``: titles of the columns of ``Answer.place``.
    """
    results = [(answer.name, answer.result) for answer in answers if isinstance(answer.result, ReleaseResult)]
    layout = _report.layout(result for _, result in results)
    rows = [row for answer in answers for row in _rows(answer, layout)]
    shown = sorted(sorted(range(len(rows)), key=lambda at: rows[at][0])[:limit])
    lines: list[Text | str] = list(
        output.columns(
            [(*places, *layout.header), *(rows[at][1] for at in shown)],
            right=[len(places) + column for column in layout.right],
            coloured=len(places) + _report.VERDICT,
        )
    )
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown)} more")
    several = len(answers) > 1
    for name, result in results:
        if len(result.processes) > 1:
            lines.append(f"{name if several else 'total'}: {_report.total([result])}")
    if several and results:
        lines.append(f"total: {_report.total([result for _, result in results])}")
    for name, result in results:
        lines += [f"{name}: {line}" if several else line for line in _report.charged(result)]
    return [*lines, *_report.notes([process for _, result in results for process in result.processes]), *_errors(answers)]


def _rows(answer: Answer, layout: _report.Layout) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Rows, each with whether all is well there."""
    if isinstance(answer.result, ReleaseResult):
        for process in answer.result.processes:
            yield _report.is_well(process), (*answer.place, *layout.cells(process))
        if answer.place and not answer.result.processes:
            yield answer.result.is_released, (*answer.place, "-", "-", answer.result.verdict.name, *("-",) * (len(layout.header) - 3))
        return
    nothing = ("-",) * (len(layout.header) - 3)
    if isinstance(answer.target, Process) and not answer.target.container_id:
        yield False, (*answer.place, name_of(answer.target) if answer.place else answer.name, "-", _word(answer.result), *nothing)
    else:
        yield False, (*answer.place, "-", "-" if answer.place else answer.name, _word(answer.result), *nothing)


def _errors(answers: Sequence[Answer]) -> list[str]:
    # One line where all failed alike, as with an agent that is not there.
    said: dict[str, list[str]] = {}
    for answer in answers:
        if isinstance(answer.result, MreleaseError):
            said.setdefault(_text.printable(str(answer.result)), []).append(answer.name)
    return [f"{', '.join(names)}: {message}" for message, names in said.items()]


def _word(error: MreleaseError) -> str:
    if isinstance(error, errors.AgentError) and error.reason:
        return _text.printable(error.reason)
    return formats.snake(type(error).__name__)
