"""In which trace a call is made: what it tells the agent in W3C trace context, https://www.w3.org/TR/trace-context/.

That of ``trace_context``, else of the current span of OpenTelemetry where the program uses that, else what the command line was started in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

Metadata = tuple[tuple[str, str], ...]

_TRACEPARENT: Final = re.compile(
    r"(?:00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"|(?!00|ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]*)?)",
    re.ASCII,
)
_TRACESTATE: Final = re.compile(r"[ -~]{0,512}", re.ASCII)

_given: ContextVar[Metadata | None] = ContextVar("mrelease_trace_context", default=None)
#: Of the whole process, also of its threads: what a program was started in.
_inherited: Metadata = ()


@contextmanager
def trace_context(traceparent: str, tracestate: str = "") -> Generator[None, None, None]:
    """Calls in this block belong to this trace: for programs that have its context, and no OpenTelemetry of their own.

    ``traceparent`` and ``tracestate``: as in the headers of these names, W3C trace context. The agent has the trace id in its log and audit
    log. With OpenTelemetry there is nothing to do: calls belong to its current span. Raises ValueError where they are malformed.
    """
    if not _TRACEPARENT.fullmatch(traceparent):
        raise ValueError(f"traceparent is not 00-TRACE_ID-SPAN_ID-FLAGS in lower case: {traceparent!r:.80}")
    if not _TRACESTATE.fullmatch(tracestate):
        raise ValueError("tracestate has more than 512 characters, or others than printable ASCII")
    token = _given.set(_metadata(traceparent, tracestate))
    try:
        yield
    finally:
        _given.reset(token)


def inherit(environ: Mapping[str, str]) -> None:
    """Take over the trace in which this program was started, TRACEPARENT and TRACESTATE; what is malformed is ignored.

    See https://opentelemetry.io/docs/specs/otel/context/env-carriers/.
    """
    global _inherited  # noqa: PLW0603 - of the process
    parent, state = environ.get("TRACEPARENT", ""), environ.get("TRACESTATE", "")
    _inherited = _metadata(parent, state if _TRACESTATE.fullmatch(state) else "") if _TRACEPARENT.fullmatch(parent) else ()


def metadata() -> Metadata:
    """Of a call that is made now; empty outside of a trace."""
    given = _given.get()
    return _of_opentelemetry() or _inherited if given is None else given


def _metadata(traceparent: str, tracestate: str) -> Metadata:
    parent = ("traceparent", traceparent)
    return (parent, ("tracestate", tracestate)) if tracestate else (parent,)


def _of_opentelemetry() -> Metadata:
    """The current span's; a program that never imported OpenTelemetry has none, and pays nothing for it."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ()
    try:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return ()
        return _metadata(
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}", context.trace_state.to_header()
        )
    except Exception:  # half imported by another thread, or another version: no reason not to make the call
        return ()
