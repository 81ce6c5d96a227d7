"""Calls tell the agent in which trace they are made, whatever the program uses for that, and load nothing for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mrelease import _trace, trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


def injected() -> dict[str, str]:
    """What OpenTelemetry itself would send."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def test_outside_of_a_trace_nothing_is_sent() -> None:
    assert _trace.metadata() == ()


def test_a_block_names_its_trace() -> None:
    with trace_context(PARENT, "a=b"):
        assert _trace.metadata() == (("traceparent", PARENT), ("tracestate", "a=b"))
        with trace_context(OTHER):
            assert _trace.metadata() == (("traceparent", OTHER),)
        assert _trace.metadata()[0] == ("traceparent", PARENT)
    assert _trace.metadata() == ()


@pytest.mark.parametrize(
    "text", ["", "x", PARENT.upper(), PARENT + "-x", PARENT + "\n", f"ff{PARENT[2:]}", f"00-{'0' * 32}{PARENT[35:]}", "00" * 9999]
)
def test_what_is_no_traceparent_is_refused_where_it_is_given(text: str) -> None:
    with pytest.raises(ValueError, match="traceparent is not 00-TRACE_ID-SPAN_ID-FLAGS") as caught, trace_context(text):
        pass
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("state", ["a=\n", "\u00e4=1", "x" * 513])
def test_what_metadata_cannot_carry_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match="tracestate"), trace_context(PARENT, state):
        pass


def test_the_current_span_of_opentelemetry_is_the_trace() -> None:
    tracer = TracerProvider().get_tracer(__name__)
    with tracer.start_as_current_span("preempt"):
        assert dict(_trace.metadata()) == injected()
        with trace_context(PARENT):  # who names one means it
            assert _trace.metadata() == (("traceparent", PARENT),)
    assert _trace.metadata() == ()


def test_a_span_that_nobody_keeps_is_told_as_such_and_its_state_goes_along() -> None:
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer(__name__).start_as_current_span("preempt"):
        assert dict(_trace.metadata()) == injected()
        assert int(_trace.metadata()[0][1][-2:], 16) & TraceFlags.SAMPLED == 0
    context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "1"), ("b", "2")]))
    with trace.use_span(NonRecordingSpan(context)):
        assert dict(_trace.metadata()) == injected() == {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01", "tracestate": "a=1,b=2"}


def test_the_environment_names_the_trace_of_a_command() -> None:
    try:
        _trace.inherit({"TRACEPARENT": PARENT, "TRACESTATE": "a=b"})
        assert dict(_trace.metadata()) == {"traceparent": PARENT, "tracestate": "a=b"}
        for hostile in ("", "x", PARENT + "\n", "\udcff", f"{PARENT}, {PARENT}"):
            _trace.inherit({"TRACEPARENT": hostile, "TRACESTATE": "a=b"})
            assert _trace.metadata() == ()
        _trace.inherit({"TRACEPARENT": PARENT, "TRACESTATE": "\x1b"})
        assert _trace.metadata() == (("traceparent", PARENT),)
    finally:
        _trace.inherit({})
    assert _trace.metadata() == ()


def test_opentelemetry_is_not_loaded_for_it() -> None:
    code = """
import sys, mrelease
from mrelease import _trace
mrelease.Client("unix:///x")
print(_trace.metadata(), "opentelemetry" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "() False\n"
