"""A result as text: the rows and the lines below them that ``print(result)`` and the CLI share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from mrelease import _text
from mrelease._enums import Outcome, UnreleasedCause, Verdict
from mrelease._models import ProcessMemory, ProcessResult, ReleaseResult, Unreleased

#: Column of the table that colours show.
VERDICT = 2

# Of processes that have a note in common so many are named.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of a table of results, one row a process; ``right``: those of numbers, which are aligned right."""

    header: tuple[str, ...]
    right: tuple[int, ...]
    cells: Callable[[ProcessResult], tuple[str, ...]]


def layout(results: Iterable[ReleaseResult]) -> Layout:
    """The columns for these results: those of a dry run say what would come back, and what would stay."""
    return DRY_RUN if any(result.verdict is Verdict.VALIDATED for result in results) else DONE


def _done(result: ProcessResult) -> tuple[str, ...]:
    return (*_who(result), released(result), _text.duration(result.release_duration), _text.duration(result.exit_duration))


def _would(result: ProcessResult) -> tuple[str, ...]:
    memory = result.memory_before or ProcessMemory()
    return (*_who(result), _text.size(memory.reclaimable_bytes), _text.size(memory.shmem_bytes))


def _who(result: ProcessResult) -> tuple[str, ...]:
    return (str(result.pid), _text.printable(result.command), result.outcome.name)


DONE: Final = Layout(("PID", "COMMAND", "VERDICT", "RELEASED", "BACK IN", "EXITED IN"), (0, 3, 4, 5), _done)
DRY_RUN: Final = Layout(("PID", "COMMAND", "VERDICT", "RECLAIMABLE", "SHMEM"), (0, 3, 4), _would)


def released(result: ProcessResult) -> str:
    """How much of how much came back."""
    if result.memory_before is None:
        return _text.size(result.released_bytes)
    return _text.share(result.released_bytes, result.memory_before.reclaimable_bytes)


def is_well(result: ProcessResult) -> bool:
    """Whether there is nothing to say about it: its memory is back, or a dry run passed."""
    return result.outcome in (Outcome.RELEASED, Outcome.EXITED, Outcome.VALIDATED)


def notes(results: Sequence[ProcessResult]) -> list[str]:
    """Why memory is not back and what to do about it, once for all processes that have it in common; empty where all is well."""
    pids: dict[tuple[str, str, str], list[int]] = {}
    kept: dict[tuple[str, str, str], Counter[UnreleasedCause]] = {}
    for result in results:
        if not is_well(result):
            key = (_text.printable(result.cause) or result.outcome.name, _where(result), _text.printable(result.remedy))
            pids.setdefault(key, []).append(result.pid)
            left = kept.setdefault(key, Counter())
            for unreleased in result.unreleased:
                left[unreleased.cause] += unreleased.size_bytes
    lines: list[str] = []
    for key, who in pids.items():
        cause, where, remedy = key
        lines.append(f"{_names(who)}: {cause}")
        sizes = ", ".join(str(Unreleased(why, size)) for why, size in kept[key].items())
        lines += [f"  {line}" for line in (where, f"not released: {sizes}" if sizes else "", remedy) if line]
    return lines


def _where(result: ProcessResult) -> str:
    parts = (
        f"state {_text.printable(result.state)}" if result.state else "",
        f"waits in {_text.printable(result.wchan)}" if result.wchan else "",
        f"{result.errno_name} at {result.step}" if result.errno_name else "",
        f"shared with {_names(result.sharing_pids)}" if result.sharing_pids else "",
        f"traced by {result.tracer_pid}" if result.tracer_pid else "",
        f"read by {_names(result.reader_pids)}" if result.reader_pids else "",
    )
    return ", ".join(part for part in parts if part)


def _names(pids: Sequence[int]) -> str:
    named = ", ".join(map(str, pids[:_NAMED]))
    return f"{named} and {len(pids) - _NAMED} more" if len(pids) > _NAMED else named


def total(results: Sequence[ReleaseResult]) -> str:
    """The sum over several processes."""
    count = sum(len(r.processes) for r in results)
    if any(r.verdict is Verdict.VALIDATED for r in results):
        would = sum(p.memory_before.reclaimable_bytes for r in results for p in r.processes if p.memory_before)
        # Processes share pages after fork(2), and nobody has measured the charge of their cgroups.
        return f"{'up to ' if count > 1 else ''}{_text.size(would)} would come back from {count} process{'' if count == 1 else 'es'}"
    share = _text.share(sum(r.released_bytes for r in results), sum(map(_whole_bytes, results)))
    return f"{share} back from {count} process{'' if count == 1 else 'es'}"


def _whole_bytes(result: ReleaseResult) -> int:
    # Processes share pages after fork(2): the sum over them may be more than there ever was.
    if len(result.processes) > 1 and result.is_released:
        return result.released_bytes
    return sum(p.memory_before.reclaimable_bytes if p.memory_before else p.released_bytes for p in result.processes)


def charged(result: ReleaseResult) -> list[str]:
    """What stays charged to a container, pod or cgroup although its processes are dead."""
    return [f"{unreleased} stays charged" for unreleased in result.unreleased]


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
    shown = layout([result])
    rows = [shown.header, *map(shown.cells, result.processes)]
    lines = ["  ".join(row).rstrip() for row in _text.table(rows, shown.right)]
    if len(result.processes) > 1:
        lines.append(f"total: {total([result])}")
    return "\n".join([*lines, *charged(result), *notes(result.processes)])
