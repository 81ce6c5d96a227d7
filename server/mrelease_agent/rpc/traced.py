"""From calls and finished operations to spans: one for a call, one for each operation in it, one for each step that it took.

The names are OpenTelemetry's (semantic conventions for RPC and processes) where it has some, `mrelease.*` where not: docs/tracing.md.
"""

from __future__ import annotations

import errno
import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc

from mrelease_agent.reaping.outcome import Step, Verdict, verdict
from mrelease_agent.reaping.report import Done, Report
from mrelease_agent.telemetry import trace_context
from mrelease_agent.telemetry.spans import SERVER, Event, Span, Traces, clock, new_span_id, new_trace_id
from mrelease_agent.telemetry.trace_context import TraceContext

#: Of a target with more processes the biggest ones have spans.
MOST_PROCESSES: Final = 16
#: Calls that begin a trace where the caller has none: they kill or release. Others are asked for all the time.
_ROOTS: Final = "/mrelease.v1.ReleaseService/"
#: Codes with which a server's span is an error: the others are the caller's affair, as the semantic conventions for gRPC have it.
_FAILURES: Final = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
#: What an operation has not achieved, for whoever looks for red spans.
_NOT_BACK: Final = frozenset({Verdict.HELD, Verdict.PARTIAL, Verdict.UNKNOWN})


def begin(traces: Traces, method: str, metadata: Iterable[tuple[str, Any]]) -> TraceContext | None:
    """Find out in which trace a call belongs, and leave it in ``trace_context.current`` for the task that serves it."""
    caller = trace_context.of_call(metadata)
    here = caller
    if traces.on:
        if caller is None and method.startswith(_ROOTS):
            here = TraceContext(new_trace_id(), new_span_id(), sampled=True, recorded=True)
        elif caller is not None and caller.sampled:
            parent = caller.span_id
            here = TraceContext(caller.trace_id, new_span_id(), sampled=True, state=caller.state, parent_id=parent, recorded=True)
    if here is not None:
        trace_context.current.set(here)
    return here


def answered(
    traces: Traces, here: TraceContext | None, method: str, start: float, code: grpc.StatusCode | int, reason: str | None, caller: str
) -> None:
    """A call was answered; ``start`` by time.monotonic(), ``reason`` that of its error, ``caller`` by name, empty where not known."""
    if here is not None and here.recorded:
        traces.put(partial(_call, here, method, (start, time.monotonic()), code, reason, caller))


@dataclass(frozen=True, slots=True)
class Asked:
    """What an operation was: ``kill`` or only released, what kind of target, its request_id. Times by time.monotonic().

    ``start``: before the target was looked for; ``resolved``: it was found; ``admitted``: the guard has let it pass, and recorded it.
    """

    kill: bool
    kind: str
    request_id: str
    start: float
    resolved: float
    admitted: float


def operation(traces: Traces, asked: Asked, done: Done) -> None:
    """An operation has ended, whoever still waits for it."""
    here = trace_context.current.get()
    if here is None or not here.recorded:
        return
    reports = done.reports
    if len(reports) > MOST_PROCESSES:
        reports = heapq.nlargest(MOST_PROCESSES, reports, key=lambda report: report.before.reclaimable if report.before else 0)
    found = verdict(report.outcome for report in done.reports)
    traces.put(partial(_operation, here, asked, time.monotonic(), reports, len(done.reports), found, done.released))


def _call(
    here: TraceContext, method: str, times: tuple[float, float], code: grpc.StatusCode | int, reason: str | None, caller: str
) -> list[Span]:
    service, _, name = method.strip("/").partition("/")
    start, end = map(clock(), times)
    span = Span(here, here.span_id, here.parent_id, f"{service}/{name}", start, end, kind=SERVER, link=here.joined)
    status = code if isinstance(code, grpc.StatusCode) else None
    span.attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": name,
        "rpc.grpc.status_code": int(status.value[0]) if status is not None else str(code),
    }
    if caller:
        span.attributes["mrelease.caller"] = caller
    if here.joined is not None:
        span.attributes["mrelease.joined"] = True
    if reason:
        span.attributes["error.type"] = reason
    if status is None or status.name in _FAILURES:
        span.error = reason or str(code)
    return [span]


def _operation(
    here: TraceContext, asked: Asked, end: float, reports: list[Report], processes: int, found: Verdict, released: int
) -> list[Span]:
    name = f"{'kill' if asked.kill else 'release'} {asked.kind.partition(':')[0]}"
    epoch = clock()
    span = Span(here, new_span_id(), here.span_id, name, epoch(asked.start), epoch(end))
    span.attributes = {
        "mrelease.target.kind": asked.kind,
        "mrelease.verdict": found.name,
        "mrelease.released_bytes": released,
        "mrelease.processes": processes,
    }
    if asked.request_id:
        span.attributes["mrelease.request_id"] = asked.request_id
    if found in _NOT_BACK:
        span.error = found.name
    spans = [
        span,
        span.child("resolve", epoch(asked.start), epoch(asked.resolved)),
        span.child("authorise", epoch(asked.resolved), epoch(asked.admitted)),
    ]
    if processes == 1 and asked.kind == "process":
        return [*spans, *_process(span, reports[0])]
    for report in reports:
        start = int(report.kill_time * 1e9) - _ns(report.grace_duration)
        each = span.child("process", start, start + _ns(report.grace_duration) + _ns(report.concluded))
        spans += [each, *_process(each, report)]
    return spans


def _process(span: Span, report: Report) -> list[Span]:
    """The steps of one process, and what became of it as attributes and events of ``span``."""
    _describe(span, report)
    return _steps(span, report) if report.kill_time else []  # else nothing was begun


def _describe(span: Span, report: Report) -> None:
    span.attributes |= {
        "process.pid": report.process.pid,
        "process.executable.name": report.process.command,
        "mrelease.outcome": report.outcome.name,
        "mrelease.proof": report.proof.name,
        "mrelease.released_bytes": report.released,
        "mrelease.attempts": report.attempts,
    }
    if report.before is not None:
        span.attributes["mrelease.held_before_bytes"] = report.before.reclaimable
    if report.boost:
        span.attributes["mrelease.boost"] = report.boost.name
    if report.held_cause:
        span.attributes["mrelease.held_cause"] = report.held_cause.name
        span.error = span.error or report.outcome.name
    if report.errno:
        span.attributes["mrelease.errno"] = errno.errorcode.get(report.errno, str(report.errno))
    start = int(report.kill_time * 1e9)
    if report.release_duration is not None:
        span.events.append(Event("memory back", start + _ns(report.release_duration), {"mrelease.released_bytes": report.released}))
    if report.exit_duration is not None:
        span.events.append(Event("exited", start + _ns(report.exit_duration), {}))


def _steps(span: Span, report: Report) -> list[Span]:
    start = int(report.kill_time * 1e9)
    steps: list[Span] = []
    if report.grace_duration is not None:
        steps.append(span.child("grace", start - _ns(report.grace_duration), start))
    elif report.step is Step.GRACE:
        steps.append(span.child("grace", start, start + _ns(report.exit_duration)))
    if report.kill_duration is not None:
        steps.append(span.child("kill", start, start + _ns(report.kill_duration)))
    exiting = report.settled if report.reap_begin is None else report.reap_begin
    if report.kill_duration is not None and exiting is not None:
        steps.append(span.child("exit", start + _ns(report.kill_duration), start + _ns(exiting)))
    if report.reap_begin is not None:
        steps.append(span.child("reap", start + _ns(report.reap_begin), start + _ns(report.settled)))
    if report.concluded is not None:
        steps.append(span.child("verify", start + _ns(report.settled), start + _ns(report.concluded)))
    return steps


def _ns(seconds: float | None) -> int:
    return int((seconds or 0.0) * 1e9)
