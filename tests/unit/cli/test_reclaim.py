"""``mrelease reclaim`` against a scripted agent: what it asks, in which order, what it prints, how it exits."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from google.protobuf.message import Message

from mrelease import _status
from mrelease.v1 import error_reason_pb2, memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, target_pb2
from support.sdk_cli import Cli, cli_in
from support.sdk_fake_agent import Fail, FakeAgent, Stream, fake_agent
from support.terminal import on_terminal

GIB = 1 << 30
ID = "0123456789abcdef" * 4
UID = "6f1e0a52-7d0c-4b3e-9d53-0a4c5b1f2e3d"

Response = release_service_pb2.ReclaimResponse


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as fake:
        monkeypatch.setenv("MRELEASE_AGENT", fake.address)
        fake.script_stream("Reclaim", Stream([ended(met=True)]))
        yield fake


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


def started(index: int, missing: int) -> Response:
    return Response(started=release_service_pb2.ReclaimStarted(index=index, missing=missing))


def killed(index: int, pid: int, *, held: bool = False, dry: bool = False) -> Response:
    """A process of 1 GiB: back, held, or to be killed."""
    response = Response()
    candidate = response.candidate
    candidate.index = index
    process = candidate.result.processes.add(command="trainer")
    process.process.pid, process.memory_before.anon_bytes = pid, GIB
    process.outcome = outcome_pb2.OUTCOME_HELD if held else outcome_pb2.OUTCOME_VALIDATED if dry else outcome_pb2.OUTCOME_RELEASED
    candidate.result.verdict = outcome_pb2.VERDICT_HELD if held else outcome_pb2.VERDICT_VALIDATED if dry else outcome_pb2.VERDICT_RELEASED
    if held:
        process.cause, process.remedy = "It waits.", "Unfreeze it."
    elif not dry:
        process.released_bytes = candidate.result.released_bytes = GIB
        process.release_duration.FromMilliseconds(13)
    return response


def passed_over(index: int, reason: str) -> Response:
    response = Response()
    response.candidate.index = index
    response.candidate.passed_over.reason = error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}")
    response.candidate.passed_over.message, response.candidate.passed_over.remedy = "it is not there", "list them"
    return response


def ended(*, met: bool, back: int = 0, count: int = 0, over: int = 0) -> Response:
    response = Response()
    response.summary.goal_met, response.summary.released_bytes = met, back
    response.summary.candidates_killed, response.summary.candidates_passed_over = count, over
    response.summary.node_memory_after.available_bytes = 5 * GIB
    return response


def process(pid: int, inode: int = 0) -> target_pb2.Target:
    return target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid, pidfd_inode=inode))


CONTAINER = target_pb2.Target(container=target_pb2.ContainerTarget(id=ID))
POD = target_pb2.Target(pod=target_pb2.PodTarget(uid=UID))
CGROUP = target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/a b"))


def test_it_asks_what_its_options_say(fake: FakeAgent, cli: Cli) -> None:
    words = "reclaim 2GiB 4711:99 --timeout 3s --reap-delay 1ms --grace 2s --signal hup --boost none --reason why --node n7 --boot-id b1"
    assert cli(*words.split(), "--dry-run").code == 0
    request = fake.seen[0].request
    expected = json_format.ParseDict(
        {
            "candidates": [{"process": {"pid": 4711, "pidfd_inode": 99}}],
            "goal": {"released_bytes": 2 * GIB},
            "node": {"name": "n7", "boot_id": "b1"},
            "timeout": "3s",
            "reap_delay": "0.001s",
            "grace_period": "2s",
            "signal": "SIGHUP",
            "boost": "BOOST_NONE",
            "reason": "why",
            "validate_only": True,
        },
        release_service_pb2.ReclaimRequest(),
    )
    assert request == expected


def test_the_order_of_the_command_line_is_the_order_of_death(fake: FakeAgent, cli: Cli, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.write_text(f"# from a scheduler\n\npod:{UID}\n  9:5\npid:10\ncontainer:{ID}\ncgroup:/a b\n")
    options = ["--cgroup", "/z", "--pid", "3", "--container", ID, "--from", str(listed), "--pid", "1:7", "--cgroup", "/y", "--pid", "3"]
    assert cli("reclaim", "1GiB", *options).code == 0
    z, y = (target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=path)) for path in ("/z", "/y"))
    # Each once: who is dead cannot die again.
    assert list(fake.seen[0].request.candidates) == [z, process(3), CONTAINER, POD, process(9, 5), process(10), CGROUP, process(1, 7), y]
    assert cli("reclaim", "3", "1", "2", "--available", "4GiB").code == 0
    assert list(fake.seen[1].request.candidates) == [process(3), process(1), process(2)]


def test_candidates_come_from_stdin(fake: FakeAgent, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"7\r\n8")))
    assert cli("reclaim", "1GiB", "--from", "-").code == 0
    assert list(fake.seen[0].request.candidates) == [process(7), process(8)]


def test_what_a_file_has_that_is_no_target_is_named_by_its_line(fake: FakeAgent, cli: Cli, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    listed.write_bytes(b"7\nseven\n8 # not here\ncontainer:\n0\n\xff\nnode:n7\n")
    done = cli("reclaim", "1GiB", "--from", str(listed))
    assert (done.code, done.out, fake.seen) == (2, "", [])
    told = [line.removeprefix("Error: ") for line in done.err.splitlines()]
    assert [line.partition(f"{listed}, ")[2].partition(":")[0] for line in told if str(listed) in line] == [
        f"line {number}" for number in (2, 3, 4, 5, 6)
    ]
    assert "and 1 more" in told
    assert f"{listed}, line 2: 'seven' is no target: expected PID, PID:INODE, container:ID, pod:UID or cgroup:/path" in done.err


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("# nobody\n\n", "names no target")])
def test_a_file_that_names_nobody_is_an_error(fake: FakeAgent, cli: Cli, tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "listed").write_text(content)
    done = cli("reclaim", "1GiB", "--from", str(tmp_path / "listed"))
    assert (done.code, fake.seen) == (2, [])
    assert says in done.err


@pytest.mark.parametrize(
    ("arguments", "goal"),
    [
        (["512MiB"], {"released_bytes": 512 << 20}),
        (["1.5 GiB"], {"released_bytes": 3 * GIB // 2}),
        (["--available", "4GiB"], {"available_bytes": 4 * GIB}),
        (["--pressure", "10"], {"pressure_below": {"kind": "PRESSURE_KIND_SOME", "percent": 10, "window": "1s"}}),
        (
            ["--pressure", "2.5", "--pressure-kind", "full", "--window", "500ms"],
            {"pressure_below": {"kind": "PRESSURE_KIND_FULL", "percent": 2.5, "window": "0.5s"}},
        ),
    ],
)
def test_the_goal_is_one_of_three(fake: FakeAgent, cli: Cli, arguments: list[str], goal: dict[str, Any]) -> None:
    assert cli("reclaim", *arguments, "7").code == 0
    assert fake.seen[0].request.goal == json_format.ParseDict(goal, release_service_pb2.ReclaimGoal())


@pytest.mark.parametrize(
    "words",
    [
        "",
        "7",
        "4711 4712",  # bytes or a process? never guessed
        "2GiB",
        "7 2GiB",
        "2GiB 7 --available 1GiB",
        "--available 1GiB --pressure 10 7",
        "--pressure 0 7",
        "--pressure 101 7",
        "2GiB 7 --window 1s",
        "2GiB 7 --pressure-kind full",
        "2PiB 7",
        "999999999TiB 7",
        "2GiB 7 --pid 8",
        "2GiB 7 --pod u",
        "2GiB --pid x",
        "2GiB 7 --by memory",
        "2GiB --by memory --pod u",
        "2GiB --by age",
        "2GiB 7 --signal TERM",
    ],
)
def test_what_makes_no_sense_is_not_asked(fake: FakeAgent, cli: Cli, words: str) -> None:
    done = cli("reclaim", *words.split())
    assert (done.code, done.out, fake.seen) == (2, "", [])
    assert "Usage:" in done.err


def test_the_table_has_a_row_for_each_and_the_sum(fake: FakeAgent, cli: Cli) -> None:
    parts = [started(0, 2 * GIB), killed(0, 7), started(1, GIB), passed_over(1, "TARGET_NOT_FOUND"), started(2, GIB), killed(2, 9)]
    fake.script_stream("Reclaim", Stream([*parts, ended(met=True, back=2 * GIB, count=2, over=1)]))
    done = cli("reclaim", "2GiB", "--pid", "7", "--cgroup", "/a", "--pid", "9", "--pid", "10")
    assert (done.code, done.err) == (0, "")
    assert done.lines == [
        "CANDIDATE  COMMAND  VERDICT                   RELEASED  BACK IN             TOTAL",
        "7          trainer  RELEASED          1.00 of 1.00 GiB    13 ms  1.00 of 2.00 GiB",
        "cgroup /a  -        TARGET_NOT_FOUND                 -        -  1.00 of 2.00 GiB",
        "9          trainer  RELEASED          1.00 of 1.00 GiB    13 ms  2.00 of 2.00 GiB",
        "cgroup /a: it is not there (list them)",
        "goal met: 2.00 GiB back from 2 of 4 candidates, 1 passed over",
    ]


def test_a_dry_run_names_who_would_die(fake: FakeAgent, cli: Cli) -> None:
    parts = [started(0, 2 * GIB), killed(0, 7, dry=True), started(1, GIB), killed(1, 8, dry=True)]
    fake.script_stream("Reclaim", Stream([*parts, ended(met=True, back=2 * GIB, count=2)]))
    done = cli("reclaim", "2GiB", "7", "8", "9", "--dry-run")
    assert done.code == 0
    assert done.lines == [
        "CANDIDATE  COMMAND  VERDICT    RECLAIMABLE  SHMEM             TOTAL",
        "7          trainer  VALIDATED     1.00 GiB    0 B  1.00 of 2.00 GiB",
        "8          trainer  VALIDATED     1.00 GiB    0 B  2.00 of 2.00 GiB",
        "goal would be met: 2.00 GiB back from 2 of 3 candidates",
    ]


def test_a_dry_run_cannot_tell_the_pressure_after_a_death(fake: FakeAgent, cli: Cli) -> None:
    fake.script_stream("Reclaim", Stream([started(0, 250), killed(0, 7, dry=True), ended(met=False, back=GIB, count=1)]))
    done = cli("reclaim", "--pressure", "10", "7", "8", "--dry-run")
    assert done.code == 0
    assert done.lines[1].split()[-2:] == ["1.00", "GiB"]
    assert done.lines[-1] == "the first of these would be killed; whether another one is, the pressure after it decides"


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        ([ended(met=True)], 0, "goal met already: nobody was killed"),
        ([started(0, 9), killed(0, 7), ended(met=True, back=GIB, count=1)], 0, "goal met: 1.00 GiB back from 1 of 1 candidate"),
        # Proven back and not enough: name more candidates.
        ([started(0, 9), killed(0, 7), ended(met=False, back=GIB, count=1)], 8, "goal not met: 1.00 GiB back from 1 of 1 candidate"),
        (
            [started(0, 9), passed_over(0, "PROTECTED"), ended(met=False, over=1)],
            8,
            "goal not met: 0 B back from 0 of 1 candidate, 1 passed",
        ),
        # May still come back: do not kill more yet.
        ([started(0, 9), killed(0, 7, held=True), ended(met=False, count=1)], 3, "goal not met: 0 B back from 1 of 1 candidate"),
        # Met all the same.
        ([started(0, 9), killed(0, 7, held=True), ended(met=True, count=1)], 0, "goal met: 0 B back"),
        ([], 1, ""),
    ],
)
def test_the_exit_code_tells_what_to_do_next(fake: FakeAgent, cli: Cli, parts: list[Message | Fail], code: int, says: str) -> None:
    fake.script_stream("Reclaim", Stream(parts))
    done = cli("reclaim", "1GiB", "7")
    assert done.code == code
    assert says in done.out


def test_a_goal_of_available_memory_says_what_is_available(fake: FakeAgent, cli: Cli) -> None:
    assert cli("reclaim", "--available", "4GiB", "7").lines == ["goal met already: nobody was killed, 5.00 GiB available"]


def test_what_is_held_says_why_and_what_to_do(fake: FakeAgent, cli: Cli) -> None:
    fake.script_stream("Reclaim", Stream([started(0, GIB), killed(0, 7, held=True), ended(met=False, count=1)]))
    done = cli("reclaim", "1GiB", "7")
    assert done.lines[1].split()[:3] == ["7", "trainer", "HELD"]
    assert done.lines[2:] == ["7: It waits.", "  Unfreeze it.", "goal not met: 0 B back from 1 of 1 candidate"]


@pytest.mark.parametrize("reason", ["SHUTTING_DOWN", "REAPERS_EXHAUSTED"])
def test_an_error_keeps_what_was_done_before_it(fake: FakeAgent, cli: Cli, reason: str) -> None:
    failure = Fail(grpc.StatusCode.UNAVAILABLE, "no more", _status.ErrorDetails(reason, {"remedy": "try later"}))
    fake.script_stream("Reclaim", Stream([started(0, 2 * GIB), killed(0, 7), started(1, GIB), failure]))
    done = cli("reclaim", "2GiB", "7", "8")
    assert [line.split()[0] for line in done.lines] == ["CANDIDATE", "7"]
    assert done.err == "mrelease: no more (try later)\n"
    # Something was killed: not the code of "nothing was signalled".
    assert done.code == 3
    fake.script_stream("Reclaim", Stream([failure]))
    done = cli("reclaim", "2GiB", "7", "8")
    assert (done.code, done.out) == (6, "")


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_data_has_each_candidate_and_the_summary(fake: FakeAgent, cli: Cli, form: str) -> None:
    parts = [started(0, GIB), passed_over(0, "PROTECTED"), started(1, GIB), killed(1, 9), ended(met=True, back=GIB, count=1, over=1)]
    fake.script_stream("Reclaim", Stream(parts))
    done = cli("reclaim", "1GiB", "--pod", UID, "--pid", "9", "--pid", "10", "-o", form)
    assert done.code == 0
    data = yaml.safe_load(done.out)
    assert data["error"] is None
    pod, nine = data["candidates"]
    assert [json_format.ParseDict(entry.pop("target"), target_pb2.Target()) for entry in (pod, nine)] == [POD, process(9)]
    over, result = (json_format.ParseDict(entry, release_service_pb2.ReclaimedCandidate()) for entry in (pod, nine))
    assert (over.WhichOneof("outcome"), over.passed_over.reason) == ("passed_over", error_reason_pb2.ERROR_REASON_PROTECTED)
    assert (result.index, result.result.released_bytes) == (1, GIB)
    assert json_format.ParseDict(data["summary"], release_service_pb2.ReclaimSummary()).candidates_killed == 1


def test_data_has_the_error(fake: FakeAgent, cli: Cli) -> None:
    failure = Fail(
        grpc.StatusCode.FAILED_PRECONDITION, "no PSI", _status.ErrorDetails("FEATURE_UNAVAILABLE", {"remedy": "boot with psi=1"})
    )
    fake.script_stream("Reclaim", Stream([failure]))
    done = cli("reclaim", "--pressure", "5", "7", "-o", "json")
    assert done.code == 4
    assert (done.data["summary"], done.data["candidates"], done.data["error"]["reason"]) == (None, [], "FEATURE_UNAVAILABLE")


def listed(*entries: tuple[int, int, str]) -> node_service_pb2.ListProcessesResponse:
    response = node_service_pb2.ListProcessesResponse()
    response.node.name, response.node.boot_id = "n7", "another-boot"
    for pid, size, protection in entries:
        info = response.processes.add(reclaimable_bytes=size, protection=protection, command="x")
        info.process.pid, info.process.pidfd_inode, info.process.start_time_ticks = pid, pid + 1, pid + 2
    return response


def test_by_memory_takes_who_holds_most_and_may_be_killed_by_identity(fake: FakeAgent, cli: Cli) -> None:
    fake.script("ListProcesses", listed((5, 3 * GIB, ""), (1, 2 * GIB, "init"), (6, GIB, ""), (7, 0, "")))
    assert cli("reclaim", "2GiB", "--by", "memory").code == 0
    request = fake.seen[-1].request
    identities = [target_pb2.ProcessTarget(pid=pid, pidfd_inode=pid + 1, start_time_ticks=pid + 2) for pid in (5, 6)]
    assert [candidate.process for candidate in request.candidates] == identities
    # The node on which they were chosen, in that boot, and no other.
    assert (request.node.name, request.node.boot_id) == ("n7", "another-boot")


def test_by_names_a_thousand_at_most(fake: FakeAgent, cli: Cli) -> None:
    fake.script("ListProcesses", listed(*((pid, GIB, "") for pid in range(1, 1500))))
    assert cli("reclaim", "2GiB", "--by", "memory").code == 0
    assert len(fake.seen[-1].request.candidates) == 1000


def test_by_finds_nobody(fake: FakeAgent, cli: Cli) -> None:
    fake.script("ListProcesses", listed((1, GIB, "init")))
    done = cli("reclaim", "2GiB", "--by", "memory")
    assert (done.code, fake.count("Reclaim")) == (2, 0)
    assert "no process that may be killed" in done.err


def test_scores_of_another_node_are_not_read_here(fake: FakeAgent, cli: Cli) -> None:
    fake.script("ListProcesses", listed((5, GIB, "")))
    done = cli("reclaim", "2GiB", "--by", "oom-score")
    assert (done.code, fake.count("Reclaim")) == (2, 0)
    assert "the agent is on another: use --by memory" in done.err


def test_a_terminal_shows_who_is_dying_and_stdout_the_table_alone(fake: FakeAgent) -> None:
    parts = [started(0, 2 * GIB), killed(0, 7), started(1, GIB)]
    fake.script_stream("Reclaim", Stream(parts, ends=False))
    with on_terminal("reclaim", "2GiB", "7", "8", "9") as running:
        running.await_text("8, 2 of 3: 1.00 GiB of the goal missing")
        running.interrupt()
        code, out = running.finish()
    assert code == 130
    assert "7          trainer  RELEASED" in running.drawn
    assert "released to its end by the agent, and no further candidate is killed" in running.drawn
    assert [line.split()[0] for line in out.splitlines()] == ["CANDIDATE", "7"]
    assert "\x1b" not in out
    assert fake.left.wait(60)


def test_pressure_is_missing_in_percent(fake: FakeAgent) -> None:
    fake.script_stream("Reclaim", Stream([started(0, 250)], ends=False))
    with on_terminal("reclaim", "--pressure", "10", "7") as running:
        running.await_text("7, 1 of 1: 2.50 % of the goal missing")
        running.interrupt()
        assert running.finish() == (130, "")


def test_a_hostile_name_does_not_reach_the_terminal(fake: FakeAgent, cli: Cli) -> None:
    hostile = killed(0, 7)
    hostile.candidate.result.processes[0].command = "\x1b[2J"
    over = passed_over(1, "PROTECTED")
    over.candidate.passed_over.message = "\x1b[2J"
    fake.script_stream("Reclaim", Stream([started(0, GIB), hostile, started(1, GIB), over, ended(met=True, back=GIB, count=1, over=1)]))
    assert "\x1b" not in cli("reclaim", "2GiB", "--pid", "7", "--cgroup", "/\x1b[2J").out


def test_every_kind_of_pressure_has_a_word() -> None:
    kinds = {name.removeprefix("PRESSURE_KIND_").lower() for name, number in memory_pb2.PressureKind.items() if number}
    from mrelease.cli.commands.reclaim import reclaim

    option: Any = next(parameter for parameter in reclaim.params if parameter.name == "pressure_kind")
    assert set(option.type.choices) == kinds
