"""A result as text: the rows of the table that ``print(result)`` and the CLI share."""

from __future__ import annotations

from collections.abc import Sequence

from mrelease import _text
from mrelease._enums import Outcome
from mrelease._models import ProcessResult, ReleaseResult

#: Columns of the table of results.
HEADER = ("PID", "COMMAND", "VERDICT", "RELEASED", "BACK IN", "EXITED IN")
#: Its columns of numbers, which are aligned right.
RIGHT = (0, 3, 4, 5)
#: Its column that colours show.
VERDICT = 2


def cells(result: ProcessResult) -> tuple[str, ...]:
    """The row of one process."""
    return (
        str(result.pid),
        _text.printable(result.command),
        result.outcome.name,
        released(result),
        _text.duration(result.release_duration),
        _text.duration(result.exit_duration),
    )


def released(result: ProcessResult) -> str:
    """How much of how much came back."""
    if result.memory_before is None:
        return _text.size(result.released_bytes)
    return _text.share(result.released_bytes, result.memory_before.reclaimable_bytes)


def notes(result: ProcessResult) -> list[str]:
    """Why memory of this process is not back and what to do about it; empty where all that the death gives back is back."""
    if result.outcome in (Outcome.RELEASED, Outcome.EXITED, Outcome.VALIDATED):
        return []
    lines = [f"{result.pid}: {_text.printable(result.cause) or result.outcome.name}"]
    if where := ", ".join(
        part
        for part in (
            f"state {_text.printable(result.state)}" if result.state else "",
            f"waits in {_text.printable(result.wchan)}" if result.wchan else "",
            f"{result.errno_name} at {result.step}" if result.errno_name else "",
            f"shared with {', '.join(map(str, result.sharing_pids))}" if result.sharing_pids else "",
        )
        if part
    ):
        lines.append(f"  {where}")
    if result.unreleased:
        lines.append(f"  not released: {', '.join(map(str, result.unreleased))}")
    if result.remedy:
        lines.append(f"  {_text.printable(result.remedy)}")
    return lines


def total(results: Sequence[ProcessResult]) -> str:
    """The sum over several processes."""
    released_bytes = sum(r.released_bytes for r in results)
    whole_bytes = sum(r.memory_before.reclaimable_bytes if r.memory_before else r.released_bytes for r in results)
    return f"total: {_text.share(released_bytes, whole_bytes)} back from {len(results)} process{'' if len(results) == 1 else 'es'}"


def process_line(result: ProcessResult) -> str:
    """One process in one line."""
    line = f"{result.pid} {_text.printable(result.command)} {result.outcome} {released(result)}"
    if result.release_duration is not None:
        line += f", back in {_text.duration(result.release_duration)}"
    if result.exit_duration is not None:
        line += f", exited in {_text.duration(result.exit_duration)}"
    return line


def result_text(result: ReleaseResult) -> str:
    """The whole table, a total where there are several processes, and the notes."""
    rows = [HEADER, *map(cells, result.processes)]
    lines = ["  ".join(row).rstrip() for row in _text.table(rows, RIGHT)]
    if len(result.processes) > 1:
        lines.append(total(result.processes))
    for process in result.processes:
        lines += notes(process)
    return "\n".join(lines)
