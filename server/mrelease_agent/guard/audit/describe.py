"""From what the guard knows to records: every text bounded, nothing left out that says who asked and who was meant."""

from __future__ import annotations

import contextlib
import errno
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from mrelease_agent.guard import caller as guard
from mrelease_agent.guard.audit.records import MOST_PROCESSES, Caller, Fate, Intent, More, Process, Refused, Result
from mrelease_agent.guard.gate import Ask
from mrelease_agent.guard.refusals import AuditUnavailable, NotPermitted, OverLimit
from mrelease_agent.guard.subject import Subject
from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.reaping.outcome import verdict
from mrelease_agent.reaping.report import Done, Report

#: Characters of a text that others chose: a cgroup path has up to 4096.
_LONG: Final = 4096
_SHORT: Final = 512
#: What dying gives back, as in procfs.Memory.reclaimable.
_SIZES: Final = (b"\nRssAnon:", b"\nVmSwap:")
#: Reasons of the contract, ErrorReason, for what the guard refuses.
_REFUSALS: Final[dict[type[Exception], str]] = {
    NotPermitted: "CALLER_NOT_PERMITTED",
    OverLimit: "KILL_LIMIT",
    AuditUnavailable: "AUDIT_UNAVAILABLE",
}


class Describer:
    """Makes the records of one node; the writer numbers and chains them."""

    def __init__(self, node: str, boot: str) -> None:
        self._node = node
        self._boot = boot

    def header(self) -> dict[str, Any]:
        """What every record begins with, now."""
        return {"seq": 0, "prev": "", "time": now(), "boot": self._boot, "node": self._node}

    def intent(self, ask: Ask, subjects: Sequence[Subject]) -> list[Intent | More]:
        """An intent, and the processes that do not fit into its line. Reads /proc."""
        intent = Intent(**self.header(), **_asked(ask), kill=ask.kill, total=len(subjects), processes=_processes(subjects[:MOST_PROCESSES]))
        return [intent, *self.more(0, subjects[MOST_PROCESSES:])]

    def more(self, intent: int, subjects: Sequence[Subject]) -> list[More]:
        """Processes that belong to an intent too; 0: to the one that goes before. Reads /proc."""
        parts = (subjects[start : start + MOST_PROCESSES] for start in range(0, len(subjects), MOST_PROCESSES))
        return [More(**self.header(), intent=intent, processes=_processes(part)) for part in parts]

    def result(self, intent: int, ask: Ask, done: Done | None, error: str) -> Result:
        """What became of an intent."""
        result = Result(**self.header(), **_asked(ask), intent=intent, error=_clip(error, _SHORT))
        if done is not None:
            result.verdict = verdict(report.outcome for report in done.reports).name if done.reports else ""
            result.released = done.released
            result.outcomes = dict(Counter(report.outcome.name for report in done.reports))
            result.processes = [_fate(report) for report in sorted(done.reports, key=lambda report: report.released)[:MOST_PROCESSES]]
        return result

    def refused(self, ask: Ask, refusal: Exception) -> Refused:
        """What was refused."""
        reason = next((name for kind, name in _REFUSALS.items() if isinstance(refusal, kind)), "") or getattr(
            getattr(refusal, "details", None), "reason", type(refusal).__name__
        )
        message = _clip(str(getattr(refusal, "message", "")), _LONG)
        return Refused(**self.header(), **_asked(ask), refusal=str(reason), message=message)


def now() -> str:
    """Time of day, RFC 3339 in UTC with nanoseconds."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def _asked(ask: Ask) -> dict[str, Any]:
    return {
        "caller": _caller(ask.caller),
        "method": _clip(ask.method, _SHORT),
        "kind": ask.kind,
        "target": _clip(ask.target, _LONG),
        "request_id": _clip(ask.request_id, _SHORT),
        "reason": _clip(ask.reason, _LONG),
        "dry_run": ask.dry_run,
        **({} if ask.trace is None else ask.trace.fields),
    }


def _caller(caller: guard.Caller) -> Caller:
    return Caller(
        name=caller_name(caller),
        transport=caller.transport,
        fingerprint=caller.fingerprint,
        uid=caller.uid,
        gid=caller.gid,
        pid=caller.pid,
    )


def caller_name(caller: guard.Caller) -> str:
    """Name of a caller as records have it."""
    return _clip(caller.name, _SHORT)


def _processes(subjects: Sequence[Subject]) -> list[Process]:
    return [_process(subject) for subject in subjects]


def _process(subject: Subject) -> Process:
    identity = subject.identity
    found = Process(pid=identity.pid, inode=identity.inode, start=identity.start_time, command=_clip(identity.command, _SHORT))
    # One that has died meanwhile is named all the same.
    with contextlib.suppress(ProcessGoneError, OSError, ValueError):
        # One look for both, without the rest: before the first signal each microsecond is waited for.
        status = procfs.read(subject.ref.proc, "status")
        found.uid = _number(status, b"\nUid:", 1)
        found.size = subject.measured if subject.measured is not None else 1024 * sum(_number(status, name) for name in _SIZES)
        found.container = subject.membership.container_id
        found.pod = subject.membership.pod_uid
        if subject.pod is not None:
            found.namespace, found.pod_name = (_clip(name, _SHORT) for name in subject.pod)
    return found


def _number(status: bytes, name: bytes, column: int = 0) -> int:
    """A number in ``status``; 0 where it is not there, as of who has no memory any more."""
    at = status.find(name)
    return int(status[at + len(name) : at + len(name) + 64].split(maxsplit=column + 1)[column]) if at >= 0 else 0


def _fate(report: Report) -> Fate:
    return Fate(
        pid=report.process.pid,
        inode=report.process.inode,
        outcome=report.outcome.name,
        errno=errno.errorcode.get(report.errno, str(report.errno)) if report.errno else "",
        released=max(0, report.released),
    )


def _clip(text: str, most: int) -> str:
    """At most so many characters, and none that UTF-8 has no bytes for."""
    if len(text) > most:
        text = text[: most - 3] + "..."
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
