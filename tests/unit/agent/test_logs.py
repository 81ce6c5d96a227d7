"""Logs: one event is one line, whatever the fields hold."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from mrelease_agent.telemetry.logs import event, event_soon, setup, write_waiting

log = logging.getLogger("mrelease_agent.test")

HOSTILE = [
    "two\nlines",
    "\r\n2026-01-01T00:00:00.000Z INFO    forged",
    "\x1b[2J\x1b]0;title\x07",
    "a\u2028b\u2029c\x85d\x0b\x0c",
    "\u202egpj.exe",
    "\udcff lone surrogate",
    'quote " and \\ backslash',
    "\x00\x7f\x9b",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = before
    root.setLevel(level)


def test_text_is_for_people(stream: io.StringIO) -> None:
    setup("text", "info", stream)
    event(
        log, logging.INFO, "kill", pid=4711, command="trainer", reason="preempted by job 99", dry=False, seconds=0.013, empty="", none=None
    )
    pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    kill (.*)\n"
    found = re.fullmatch(pattern, stream.getvalue())
    assert found
    assert found[1] == 'pid=4711 command=trainer reason="preempted by job 99" dry=false seconds=0.013 empty=""'


def test_json_is_one_object_a_line(stream: io.StringIO) -> None:
    setup("json", "info", stream)
    event(log, logging.WARNING, "kill", pid=4711, command="Z\u00fcrich", seconds=float("inf"), none=None, ts="mine", pids=[1, 2])
    line = json.loads(stream.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "warning",
        "msg": "kill",
        "logger": "mrelease_agent.test",
        "pid": 4711,
        "command": "Z\u00fcrich",
        "seconds": "inf",
        "ts_": "mine",
        "pids": [1, 2],
    }


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_text_stays_on_its_line_and_off_the_terminal(value: str, stream: io.StringIO) -> None:
    setup("text", "info", stream)
    event(log, logging.INFO, "kill", command=value)
    log.info(value)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert re.search(r' kill command="(?:[^"\\]|\\.)*"$', lines[0])


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_text_is_whole_in_json(value: str, stream: io.StringIO) -> None:
    setup("json", "info", stream)
    event(log, logging.INFO, "kill", command=value)
    log.info(value)
    assert stream.getvalue().isascii()
    first, second, end = stream.getvalue().split("\n")
    assert (json.loads(first)["command"], json.loads(second)["msg"], end) == (value, value, "")


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_line_of_an_exception_can_pass_for_an_event(style: str, stream: io.StringIO) -> None:
    setup("json" if style == "json" else "text", "info", stream)
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z INFO forged\x1b[2J")
    except ValueError:
        event(log, logging.ERROR, "failed", exc_info=True, incident="a1")
    first, *rest = stream.getvalue().rstrip("\n").split("\n")
    assert "\x1b" not in stream.getvalue()
    if style == "json":
        assert not rest
        assert "ValueError: x" in json.loads(first)["exception"]
    else:
        assert first.endswith("failed incident=a1")
        assert rest
        assert all(line.startswith("    ") for line in rest)


def test_the_level_decides(stream: io.StringIO) -> None:
    setup("text", "warning", stream)
    event(log, logging.INFO, "quiet")
    event(log, logging.WARNING, "loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_setup_twice_logs_once(stream: io.StringIO) -> None:
    setup("json", "info", stream)
    setup("text", "info", stream)
    event(log, logging.INFO, "once")
    assert stream.getvalue().count("once") == 1
    assert "{" not in stream.getvalue()


def test_a_closed_stream_stops_nothing(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    setup("text", "info", stream)
    stream.close()
    event(log, logging.INFO, "lost")
    assert capsys.readouterr().err == ""


def test_what_is_logged_soon_is_not_written_at_once_and_has_the_time_of_the_event(stream: io.StringIO) -> None:
    setup("json", "info", stream)

    async def run() -> None:
        event_soon(log, logging.INFO, "first", lambda: {"pid": 1})
        event_soon(log, logging.DEBUG, "unwanted", lambda: {})
        assert not stream.getvalue()
        loop = asyncio.get_running_loop()
        while not stream.getvalue():
            turn = loop.create_future()
            loop.call_soon(turn.set_result, None)
            await turn

    before = datetime.now(timezone.utc)
    asyncio.run(run())
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["msg"], line["pid"], line["logger"]) == ("first", 1, "mrelease_agent.test")
    assert datetime.fromisoformat(line["ts"].replace("Z", "+00:00")) >= before.replace(microsecond=before.microsecond // 1000 * 1000)


def test_events_keep_their_order(stream: io.StringIO) -> None:
    setup("text", "info", stream)

    async def run() -> None:
        event_soon(log, logging.INFO, "first", dict)
        event_soon(log, logging.INFO, "second", dict)
        event(log, logging.INFO, "third")

    asyncio.run(run())
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["first", "second", "third"]


def test_what_waits_when_the_event_loop_ends_is_not_lost(stream: io.StringIO) -> None:
    setup("text", "info", stream)

    async def run() -> None:
        event_soon(log, logging.INFO, "last", dict)

    asyncio.run(run())
    assert not stream.getvalue()
    write_waiting()
    assert stream.getvalue().split()[2] == "last"
    write_waiting()
    assert len(stream.getvalue().splitlines()) == 1
