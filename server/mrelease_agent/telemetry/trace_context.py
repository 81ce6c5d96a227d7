"""In which trace a call belongs: what its caller says in W3C trace context, https://www.w3.org/TR/trace-context/, read without trust.

What is malformed is ignored, as the recommendation asks for: who has a broken tracer may still have memory given back. Of what a caller
sends nothing but hexadecimal digits ever reaches the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL
)
_SAMPLED: Final = 1
#: A tracestate of at most so many characters is passed on, and of so many members; each is ``key=value``.
_MAX_STATE: Final = 512
_MAX_MEMBERS: Final = 32
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_\-*/@]*=[\x20-\x2b\x2d-\x3c\x3e-\x7e]+", re.ASCII)


class TraceContext:
    """A place in a trace.

    ``trace_id``: 32 hexadecimal digits; ``span_id``: 16, of the span in which things happen: the caller's, or the agent's own where it
    exports spans; then ``parent_id`` is the caller's, empty where the trace begins here. ``sampled``: somebody keeps the trace.
    ``state``: the caller's tracestate, or empty. ``recorded``: the agent exports its spans. ``joined``: another one, whose operation was
    joined.
    """

    __slots__ = ("joined", "parent_id", "recorded", "sampled", "span_id", "state", "trace_id")

    def __init__(self, trace_id: str, span_id: str, *, sampled: bool, state: str = "", parent_id: str = "", recorded: bool = False) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
        self.state = state
        self.recorded = recorded
        self.joined: TraceContext | None = None

    @property
    def fields(self) -> Mapping[str, str]:
        """As log lines and exemplars have it, by the names of OpenTelemetry."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}


#: Where the call that is being served belongs; tasks that serve it inherit it. None: in no trace.
current: ContextVar[TraceContext | None] = ContextVar("trace_context", default=None)
_NONE: Final[Mapping[str, str]] = {}


def fields() -> Mapping[str, str]:
    """``trace_id`` and ``span_id`` of what is done now; empty outside of a trace."""
    here = current.get()
    return _NONE if here is None else here.fields


def join(other: TraceContext | None) -> None:
    """Say that the call that is being served joined, watches or repeats an operation which began in ``other``."""
    here = current.get()
    if here is not None and here is not other:
        here.joined = other


def of_call(metadata: Iterable[tuple[str, Any]]) -> TraceContext | None:
    """What the metadata of a call says; None where it says nothing, or nothing that can be believed to be meant."""
    parent: Any = None
    states: list[str] = []
    for key, value in metadata:
        if key == "traceparent":
            if parent is not None:  # two of them: nobody knows which one is meant
                return None
            parent = value
        elif key == "tracestate" and isinstance(value, str):
            states.append(value)
    return None if parent is None else parse(parent, ",".join(states))


def parse(traceparent: object, tracestate: str = "") -> TraceContext | None:
    """Read the two headers; None where ``traceparent`` is not one. A ``tracestate`` that is not one is left out."""
    found = _TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    # Version 00 ends after the flags; one that comes later may have more, of which nothing is known yet.
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return TraceContext(found[2], found[3], sampled=bool(int(found[4], 16) & _SAMPLED), state=_state(tracestate))


def _state(text: str) -> str:
    if not text or len(text) > _MAX_STATE:
        return ""
    members = [member for each in text.split(",") if (member := each.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > _MAX_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    return ",".join(members)
