"""Operations on the command line, against a scripted agent: grace, boost, request ids, dry runs, and bars on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from mrelease import _status
from mrelease.cli import asking
from mrelease.cli.commands import release
from mrelease.v1 import outcome_pb2, release_service_pb2
from support import lab
from support.sdk_cli import Cli, cli_in
from support.sdk_fake_agent import Fail, FakeAgent, Stream, killing_agent
from support.terminal import on_terminal

MIB = 1 << 20
GIB = 1 << 30
#: An agent that knows neither field 8 of KillAndRelease nor WatchRelease.
OLD = Fail(grpc.StatusCode.INVALID_ARGUMENT, "8 is not known", _status.ErrorDetails("INVALID_FIELD", {"field": "8", "remedy": "upgrade"}))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeAgent]:
    with killing_agent(tmp_path, killed) as fake:
        monkeypatch.setenv("MRELEASE_AGENT", fake.address)
        yield fake


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


def killed(request: Any) -> release_service_pb2.KillAndReleaseResponse:
    """A process of 1 GiB that is back, or would be."""
    response = release_service_pb2.KillAndReleaseResponse()
    dry = request.validate_only
    response.result.verdict = outcome_pb2.VERDICT_VALIDATED if dry else outcome_pb2.VERDICT_RELEASED
    process = response.result.processes.add(command="trainer")
    process.process.CopyFrom(request.target.process)
    process.outcome = outcome_pb2.OUTCOME_VALIDATED if dry else outcome_pb2.OUTCOME_RELEASED
    process.memory_before.anon_bytes, process.memory_before.shmem_bytes = GIB, 64 * MIB
    response.result.released_bytes = process.released_bytes = 0 if dry else GIB
    return response


def progress(held: int) -> release_service_pb2.WatchReleaseResponse:
    response = release_service_pb2.WatchReleaseResponse()
    response.progress.before_bytes, response.progress.held_bytes = GIB, held
    response.progress.elapsed_duration.FromMilliseconds(400)
    return response


class Gate:
    """An answer that is given when the test says so."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, request: Any) -> Message:
        assert self.open.wait(60)
        return killed(request)


@pytest.fixture
def gate(fake: FakeAgent) -> Generator[Gate]:
    gate = Gate()
    fake.script("KillAndRelease", gate)
    yield gate
    gate.open.set()


def test_kill_asks_for_the_grace_and_the_boost_that_its_options_say(fake: FakeAgent, cli: Cli) -> None:
    assert cli("kill", "7", "--grace", "1.5s", "--signal", "int", "--boost", "lift", "--request-id", "job-1").code == 0
    request = fake.seen[0].request
    expected = release_service_pb2.KillAndReleaseRequest(
        wait=outcome_pb2.WAIT_RELEASED,
        timeout=Duration(seconds=10),
        grace_period=Duration(seconds=1, nanos=500_000_000),
        signal="SIGINT",
        boost=outcome_pb2.BOOST_LIFT,
        request_id="job-1",
    )
    expected.target.process.pid = 7
    assert request == expected


@pytest.mark.parametrize(("word", "boost"), [("none", 1), ("priority", 2), ("evacuation", 3), ("lift", 4)])
def test_release_takes_a_boost_and_a_request_id(fake: FakeAgent, cli: Cli, word: str, boost: int) -> None:
    assert cli("release", "7", "--boost", word, "--request-id", "job-1").code == 0
    assert (fake.seen[0].request.boost, fake.seen[0].request.request_id) == (boost, "job-1")


def test_nothing_is_asked_that_was_not_said(fake: FakeAgent, cli: Cli) -> None:
    assert cli("kill", "7").code == 0
    request = fake.seen[0].request
    assert {field.name for field, _ in request.ListFields()} == {"target", "timeout", "wait"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["kill", "7", "--signal", "TERM"],
        ["kill", "7", "--signal", "TERM", "--grace", "0s"],
        ["kill", "7", "--grace", "soon"],
        ["kill", "7", "--grace", "1s", "--signal", "15"],
        ["kill", "7", "--boost", "nice"],
        ["kill", "7", "--request-id", ""],
        ["kill", "7", "8", "--request-id", "one"],
        ["release", "7", "--grace", "1s"],
        ["watch"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_not_asked(fake: FakeAgent, cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out, fake.seen) == (2, "", [])
    assert "Usage:" in done.err


def test_a_dry_run_says_what_would_die_and_what_would_come_back_and_what_stays(fake: FakeAgent, cli: Cli) -> None:
    done = cli("kill", "4711", "4712", "--dry-run")
    assert done.code == 0
    assert done.lines == [
        " PID  COMMAND  VERDICT    RECLAIMABLE     SHMEM",
        "4711  trainer  VALIDATED     1.00 GiB  64.0 MiB",
        "4712  trainer  VALIDATED     1.00 GiB  64.0 MiB",
        "total: up to 2.00 GiB would come back from 2 processes",
    ]


def test_a_dry_run_has_a_row_for_what_is_refused(fake: FakeAgent, cli: Cli) -> None:
    gone = Fail(grpc.StatusCode.NOT_FOUND, "gone", _status.ErrorDetails("PROCESS_NOT_FOUND", {"remedy": "gone"}))
    fake.script("KillAndRelease", lambda request: gone if request.target.process.pid == 8 else killed(request))
    done = cli("kill", "7", "8", "--dry-run")
    assert done.code == 5
    assert done.lines[2].split() == ["8", "-", "PROCESS_NOT_FOUND", "-", "-"]
    assert done.lines[3] == "total: 1.00 GiB would come back from 1 process"


def test_a_pipe_gets_no_bar_and_the_agent_no_id(fake: FakeAgent, cli: Cli) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB)]))
    done = cli("kill", "7")
    assert (done.code, done.err, fake.seen[0].request.request_id) == (0, "", "")


def test_what_is_done_at_once_needs_no_bar(fake: FakeAgent, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "can_draw", lambda: True)
    monkeypatch.setattr(asking, "DELAY", 3600.0)
    fake.script_stream("WatchRelease", Stream([progress(GIB)]))
    done = cli("kill", "7", "8")
    assert (done.code, done.err, fake.count("WatchRelease")) == (0, "", 0)
    assert len({UUID(seen.request.request_id) for seen in fake.seen}) == 2


def test_a_terminal_shows_what_is_held_and_stdout_the_result_alone(fake: FakeAgent, gate: Gate) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB), progress(GIB // 4)], ends=False))
    with on_terminal("kill", "4711") as running:
        running.await_text("0.25 of 1.00 GiB held, 400 ms")
        gate.open.set()
        code, out = running.finish()
    assert (code, [line.split()[:3] for line in out.splitlines()]) == (0, [["PID", "COMMAND", "VERDICT"], ["4711", "trainer", "RELEASED"]])
    assert "4711 " in running.drawn
    assert "\x1b" not in out
    asked, watched = fake.seen
    assert watched.request.request_id == asked.request.request_id
    # The last thing that the bar does is to wipe itself and to show the cursor again.
    assert running.raw.rindex("\x1b[2K") > running.raw.rindex("held")
    assert running.raw.rindex("\x1b[?25h") > running.raw.rindex("\x1b[?25l")


def test_each_of_a_few_targets_has_its_bar(fake: FakeAgent, gate: Gate) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB)], ends=False))
    with on_terminal("kill", "101", "102", "103") as running:
        for pid in ("101", "102", "103"):
            running.await_text(f"{pid} ")
        gate.open.set()
        assert running.finish()[0] == 0


def test_many_targets_share_a_bar(fake: FakeAgent, gate: Gate) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB // 2)], ends=False))
    with on_terminal("kill", *map(str, range(101, 113))) as running:
        running.await_text("6.00 of 12.0 GiB held")
        gate.open.set()
        assert running.finish()[0] == 0
    assert "12 targets" in running.drawn
    assert "101" not in running.drawn


def old(request: Any) -> Message | Fail:
    return OLD if request.request_id else killed(request)


def test_an_older_agent_is_asked_without_an_id_and_there_is_no_bar(fake: FakeAgent) -> None:
    fake.script("KillAndRelease", old)
    with on_terminal("kill", "7") as running:
        assert running.finish()[0] == 0
    assert running.drawn == ""
    assert [bool(seen.request.request_id) for seen in fake.seen] == [True, False]


def test_an_older_agent_does_not_ignore_an_id_that_was_asked_for(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", old)
    assert cli("kill", "7", "--request-id", "job-1").code == 2
    assert fake.count("KillAndRelease") == 1


def test_without_news_there_is_no_bar_and_no_noise(fake: FakeAgent) -> None:
    def answer(request: Any) -> Message:
        lab.until(lambda: fake.count("WatchRelease") > 0, "it is watched")
        return killed(request)

    fake.script("KillAndRelease", answer)
    fake.script_stream("WatchRelease", Stream([Fail(grpc.StatusCode.UNAVAILABLE, "no more")]))
    with on_terminal("kill", "7") as running:
        code, out = running.finish()
    assert (code, running.drawn) == (0, "")
    assert "RELEASED" in out


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_draw_gets_no_bar(fake: FakeAgent, term: str) -> None:
    with on_terminal("kill", "7", TERM=term) as running:
        assert running.finish()[0] == 0
    assert running.drawn == ""
    assert fake.seen[0].request.request_id == ""


def test_an_interruption_says_how_to_see_what_becomes_of_it(fake: FakeAgent, gate: Gate) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB)], ends=False))
    with on_terminal("kill", "7", "--agent", fake.address) as running:
        running.await_text("held")
        running.interrupt()
        code, out = running.finish()
    assert (code, out) == (130, "")
    asked = next(seen.request for seen in fake.seen if seen.method == "KillAndRelease")
    assert "released to its end by the agent" in running.drawn
    assert f"mrelease watch --agent {fake.address} {asked.request_id}" in running.drawn
    # Nothing of the bar is left below.
    assert running.raw.rindex("\x1b[?25h") < running.raw.rindex("interrupted")


def test_an_interruption_keeps_the_answers_that_came(fake: FakeAgent, gate: Gate) -> None:
    fake.script("KillAndRelease", lambda request: killed(request) if request.target.process.pid == 7 else gate(request))
    fake.script_stream("WatchRelease", Stream([progress(GIB)], ends=False))
    with on_terminal("kill", "7", "8", "9", "10", "11", "12") as running:
        running.await_text("held")
        running.interrupt()
        code, out = running.finish()
    assert code == 130
    assert [line.split()[0] for line in out.splitlines()[1:2]] == ["7"]
    assert "and 2 more" in running.drawn


def test_watch_ends_with_the_result_and_its_code(fake: FakeAgent, cli: Cli) -> None:
    request = release_service_pb2.KillAndReleaseRequest()
    request.target.process.pid = 4711
    held = killed(request).result
    held.verdict, held.processes[0].outcome = outcome_pb2.VERDICT_HELD, outcome_pb2.OUTCOME_HELD
    parts = [progress(GIB), progress(GIB), progress(GIB // 2), release_service_pb2.WatchReleaseResponse(result=held)]
    fake.script_stream("WatchRelease", Stream(parts))
    done = cli("watch", "job-1", "--interval", "50ms")
    # A line for each change, not for each look.
    assert done.lines[:2] == ["1.00 of 1.00 GiB held after 400 ms", "0.50 of 1.00 GiB held after 400 ms"]
    assert [line.split()[0] for line in done.lines[2:4]] == ["PID", "4711"]
    assert done.code == 3
    assert (fake.seen[0].request.request_id, fake.seen[0].request.interval.ToMilliseconds()) == ("job-1", 50)


def test_watch_prints_one_object_a_line(fake: FakeAgent, cli: Cli) -> None:
    result = killed(release_service_pb2.KillAndReleaseRequest()).result
    result.node.name = "n7"
    fake.script_stream("WatchRelease", Stream([progress(GIB), release_service_pb2.WatchReleaseResponse(result=result)]))
    done = cli("watch", "job-1", "-o", "json")
    assert done.code == 0
    first, last = map(parsed, done.lines)
    assert (first.progress.held_bytes, first.WhichOneof("event")) == (GIB, "progress")
    assert (last.result, last.WhichOneof("event")) == (result, "result")
    assert cli("watch", "job-1", "-o", "yaml").lines.count("---") == 2


def parsed(line: str) -> release_service_pb2.WatchReleaseResponse:
    from google.protobuf import json_format

    return json_format.Parse(line, release_service_pb2.WatchReleaseResponse())


@pytest.mark.parametrize(("reason", "code"), [("OPERATION_NOT_FOUND", 5), ("PROTECTED", 4)])
def test_watch_says_why_there_is_no_result(fake: FakeAgent, cli: Cli, reason: str, code: int) -> None:
    refused = Fail(grpc.StatusCode.NOT_FOUND, "no such thing", _status.ErrorDetails(reason, {"remedy": "look"}))
    fake.script_stream("WatchRelease", Stream([refused]))
    done = cli("watch", "job-1")
    assert (done.code, done.out, done.err) == (code, "", "mrelease: no such thing (look)\n")
    done = cli("watch", "job-1", "-o", "json")
    assert (done.code, len(done.lines), done.data["error"]["reason"]) == (code, 1, reason)


def test_watch_draws_a_bar_on_a_terminal(fake: FakeAgent) -> None:
    result = killed(release_service_pb2.KillAndReleaseRequest()).result
    fake.script_stream("WatchRelease", Stream([progress(GIB // 2), release_service_pb2.WatchReleaseResponse(result=result)]))
    with on_terminal("watch", "job-1") as running:
        code, out = running.finish()
    assert code == 0
    assert "job-1 " in running.drawn
    assert "0.50 of 1.00 GiB held" in running.drawn
    assert "held" not in out


def test_watch_of_a_stream_without_a_result_is_a_defect(fake: FakeAgent, cli: Cli) -> None:
    fake.script_stream("WatchRelease", Stream([progress(GIB)]))
    done = cli("watch", "job-1")
    assert done.code == 1
    assert "without a result" in done.err
