"""What a caller says of its trace is believed only where it is well-formed, and nothing else of it goes anywhere."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrelease_agent.telemetry import logs, trace_context
from mrelease_agent.telemetry.trace_context import of_call, parse

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def test_a_traceparent_is_read() -> None:
    found = parse(GOOD, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
    assert found is not None
    assert (found.trace_id, found.span_id, found.sampled) == (TRACE, SPAN, True)
    assert found.state == "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    assert found.fields == {"trace_id": TRACE, "span_id": SPAN}


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_only_the_lowest_flag_says_that_somebody_keeps_it(flags: str, sampled: bool) -> None:
    found = parse(f"00-{TRACE}-{SPAN}-{flags}")
    assert found is not None
    assert found.sampled is sampled


@pytest.mark.parametrize("version", ["01", "cc", "fe"])
def test_of_later_versions_what_is_known_is_read(version: str) -> None:
    for rest in ("", "-", "-what-the-future-will-bring"):
        found = parse(f"{version}-{TRACE}-{SPAN}-01{rest}")
        assert found is not None
        assert (found.trace_id, found.span_id) == (TRACE, SPAN)


HOSTILE = [
    *("", " ", "-", "00", f"00-{TRACE}", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-001"),
    *(f"ff-{TRACE}-{SPAN}-01", f"0-{TRACE}-{SPAN}-01", f"000-{TRACE}-{SPAN}-01", f"0x-{TRACE}-{SPAN}-01", f"FF-{TRACE}-{SPAN}-01"),
    *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN.upper()}-01"),
    *(f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}0-{SPAN}-01", f"00-{TRACE[:-1]}g-{SPAN}-01", f"00-{TRACE}-{SPAN[:-1]}-01"),
    *(f"{GOOD}-", f"{GOOD}-x", f"{GOOD} ", f" {GOOD}", f"{GOOD}\n", f"{GOOD}\0", f"\ufeff{GOOD}", f"{GOOD},{GOOD}", GOOD.replace("-", "_")),
    *(
        f"00-{TRACE}-{SPAN}-0\u0661",
        f"00-\u0660{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-\uff10\uff11",
        "00-" + "a" * 100_000,
        "-" * 8192,
    ),
    *('00-{"msg":"forged"}-x-01', "\x1b[2J\x1b[31m", "%s%n" * 64, f"{GOOD}\r\ntracestate: x=y"),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_malformed_is_ignored(text: str) -> None:
    assert parse(text) is None
    assert of_call([("traceparent", text), ("tracestate", "a=b")]) is None


def test_what_is_no_text_or_there_twice_is_ignored() -> None:
    assert parse(GOOD.encode()) is None
    assert parse(None) is None
    assert of_call([]) is None
    assert of_call([("tracestate", "a=b")]) is None
    assert of_call([("traceparent", GOOD), ("traceparent", GOOD)]) is None
    assert of_call([("user-agent", "x"), ("traceparent-bin", GOOD.encode())]) is None


@given(st.text(alphabet=st.sampled_from("0123456789abcdefABCDEF-\n \0g\u0660"), max_size=80))
def test_whatever_is_read_is_hexadecimal_and_not_zero(text: str) -> None:
    for each in (text, f"00-{text}", f"00-{TRACE}-{text}", f"01-{TRACE}-{SPAN}-{text}"):
        found = parse(each)
        if found is not None:
            assert (len(found.trace_id), len(found.span_id)) == (32, 16)
            assert set(found.trace_id + found.span_id) <= set("0123456789abcdef")
            assert int(found.trace_id, 16)
            assert int(found.span_id, 16)
            assert each.startswith(f"{each[:2]}-{found.trace_id}-{found.span_id}-")


STATES = [
    "=",
    "a",
    "a=",
    "=b",
    "A=b",
    "a=b=c",
    "a=b,a=c",
    "a=\u00e4",
    "a=b\n",
    "a=\0",
    "\x1b=1",
    "a=" + "x" * 512,
    ",".join(f"k{n}=1" for n in range(33)),
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_malformed_tracestate_is_left_out_and_the_trace_is_not(state: str) -> None:
    found = parse(GOOD, state)
    assert found is not None
    assert (found.trace_id, found.state) == (TRACE, "")


def test_tracestate_in_two_headers_is_one() -> None:
    found = of_call([("tracestate", "a=1 , b=2"), ("traceparent", GOOD), ("tracestate", "c@d=3,")])
    assert found is not None
    assert found.state == "a=1,b=2,c@d=3"


def test_log_lines_have_the_trace_in_which_they_are_written() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.setup("json", "info", stream)
    try:
        log = logging.getLogger("a test")
        logs.event(log, logging.INFO, "outside", pid=1)
        token = trace_context.current.set(parse(GOOD))
        logs.event(log, logging.INFO, "inside", pid=2)
        trace_context.current.reset(token)
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
    outside, inside = map(json.loads, stream.getvalue().splitlines())
    assert "trace_id" not in outside
    assert (inside["trace_id"], inside["span_id"], inside["pid"]) == (TRACE, SPAN, 2)
