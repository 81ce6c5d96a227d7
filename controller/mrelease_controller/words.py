"""What came of a look, in the words of people: the text of a Kubernetes Event."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from mrelease import Outcome, ProcessInfo, ProcessResult, _text
from mrelease_controller.attempt import Finding, Report
from mrelease_controller.cases import Case, Kind

#: EventSeries and Event of events.k8s.io/v1: a note has at most 1 kB.
LONGEST: Final = 1000
#: Processes that are named.
_NAMED: Final = 3
_WELL: Final = (Outcome.RELEASED, Outcome.EXITED)


@dataclass(frozen=True, slots=True)
class Note:
    """An Event: its reason (one word, for programs), its text, and whether somebody should do something."""

    reason: str
    text: str
    is_warning: bool = False


def note(case: Case, report: Report) -> Note | None:
    """What to tell of a report; None: nothing that anybody waits for."""
    made: Note | None = None
    error = "" if report.error is None else _text.printable(str(report.error))
    match report.finding:
        case Finding.RELEASED if report.result is not None:
            made = _released(case, report)
        case Finding.HELD if report.result is not None:
            bad = [each for each in report.result.processes if each.outcome not in _WELL]
            text = f"{_share(report)} released; {'; '.join(map(_why, bad[:_NAMED]))}{_more(len(bad))}"
            made = Note("MemoryHeld", text, is_warning=True)
        case Finding.WOULD:
            made = Note("MemoryWouldBeReleased", f"dry run: would release {_text.size(report.held_bytes)}; {_who(report)}")
        case Finding.ALIVE if case.kind is Kind.TERMINATING:
            text = f"past its grace period and not killed: {_who(report)}. Nothing was done: see what the kubelet of {case.node} does"
            made = Note("NotKilled", text, is_warning=True)
        case Finding.UNREACHABLE if error:
            made = Note("AgentUnreachable", f"its memory cannot be released: {error}", is_warning=True)
        case Finding.REFUSED if error:
            made = Note("ReleaseRefused", f"its memory is not released: {error}", is_warning=True)
        case _:
            pass
    return None if made is None else replace(made, text=_cut(made.text))


def _released(case: Case, report: Report) -> Note:
    assert report.result is not None
    parts = [f"released {_share(report)}" + (f" of container {case.container[:12]}" if case.container else "")]
    waiting = [each for each in report.processes if each.state == "D"]
    if report.killed:
        parts.append(f"killed {len(report.result.processes)} that still ran past the grace period")
    if waiting:
        named = ", ".join(f"{each.pid} ({_text.printable(each.command)})" for each in waiting[:_NAMED])
        noun = "process" if len(waiting) == 1 else "processes"
        parts.append(
            f"{noun} {named}{_more(len(waiting))} in D state: {'it ends' if len(waiting) == 1 else 'they end'} when the kernel lets go"
        )
    return Note("Killed" if report.killed else "MemoryReleased", "; ".join(parts), is_warning=report.killed)


def _share(report: Report) -> str:
    assert report.result is not None
    return _text.share(report.result.released_bytes, max(report.held_bytes, report.result.released_bytes))


def _why(result: ProcessResult) -> str:
    where = ", ".join(part for part in (f"state {result.state}" if result.state else "", result.wchan) if part)
    words = [f"process {result.pid} ({_text.printable(result.command)}): {_text.printable(result.cause) or result.outcome.name}"]
    words += [f"[{_text.printable(where)}]"] if where else []
    words += [_text.printable(result.remedy)] if result.remedy else []
    return " ".join(words)


def _who(report: Report) -> str:
    return ", ".join(map(_process, report.processes[:_NAMED])) + _more(len(report.processes))


def _process(process: ProcessInfo) -> str:
    return f"process {process.pid} ({_text.printable(process.command)}, state {process.state}, {_text.size(process.reclaimable_bytes)})"


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""


def _cut(text: str) -> str:
    raw = text.encode()
    return text if len(raw) <= LONGEST else raw[: LONGEST - 3].decode(errors="ignore") + "..."
