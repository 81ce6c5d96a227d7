"""Spans: what a trace is told of a call and of the steps of an operation, made after the fact. Without ``otlp_endpoint`` nobody is told.

What is put here costs a call no more than remembering it: spans are made of it on the thread that sends them (telemetry/otlp.py).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from mrelease_agent.telemetry.trace_context import TraceContext

#: Kinds of spans with the numbers of opentelemetry.proto.trace.v1.Span.SpanKind.
INTERNAL: Final = 1
SERVER: Final = 2

Value = str | int | float | bool
Attributes = Mapping[str, Value]


class Event(NamedTuple):
    """Something at one moment of a span; ``time`` in nanoseconds since the epoch."""

    name: str
    time: int
    attributes: Attributes


@dataclass(slots=True)
class Span:
    """One span; ``start`` and ``end`` in nanoseconds since the epoch. ``error``: what went wrong; empty: nothing that it knows of.

    ``trace``: the trace that it belongs to; ``parent_id``: empty for the first one of a trace. ``link``: where what it joined belongs.
    """

    trace: TraceContext
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    kind: int = INTERNAL
    attributes: dict[str, Value] = field(default_factory=dict[str, Value])
    events: list[Event] = field(default_factory=list[Event])
    link: TraceContext | None = None
    error: str = ""

    def child(self, name: str, start: int, end: int) -> Span:
        """A span in this one. Clocks that were read one after the other may differ by a little: it never ends before it starts."""
        return Span(self.trace, new_span_id(), self.span_id, name, start, max(start, end))


class Traces:
    """Where spans go; here: nowhere."""

    #: Whether they go anywhere.
    on = False

    def put(self, spans: Callable[[], list[Span]]) -> None:
        """Have these sent; ``spans`` is called on another thread. Never waits and never raises."""

    def close(self) -> None:
        """Send what waits, for some seconds at most."""


def new_span_id() -> str:
    """16 hexadecimal digits."""
    return secrets.token_hex(8)


def new_trace_id() -> str:
    """32 hexadecimal digits."""
    return secrets.token_hex(16)


def clock() -> Callable[[float], int]:
    """What turns times of time.monotonic() into nanoseconds since the epoch, by the clocks as they are now."""
    # Whoever is interrupted between two readings takes another look.
    looks = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(3)]
    before, now, after = min(looks, key=lambda look: look[2] - look[0])
    offset = now - (before + after) // 2
    return lambda monotonic: offset + int(monotonic * 1e9)
