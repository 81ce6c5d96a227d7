"""Every command against a scripted agent: what it asks, what it prints, how it exits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

import mrelease
from mrelease import _status
from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2, result_pb2
from support.sdk_cli import Cli, Done, cli_in
from support.sdk_fake_agent import Fail, FakeAgent, killing_agent
from support.sdk_samples import full_message

MRELEASE = str(Path(sys.executable).with_name("mrelease"))
GIB = 1 << 30
GONE = Fail(
    grpc.StatusCode.NOT_FOUND, "no process has pid 7: gone", _status.ErrorDetails("PROCESS_NOT_FOUND", {"pid": "7", "remedy": "gone"})
)
PROTECTED = Fail(
    grpc.StatusCode.PERMISSION_DENIED, "protected", _status.ErrorDetails("PROTECTED", {"pid": "1", "remedy": "choose another"})
)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeAgent]:
    with killing_agent(tmp_path, killed) as fake:
        monkeypatch.setenv("MRELEASE_AGENT", fake.address)
        yield fake


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


def killed(request: Any, **changes: Any) -> release_service_pb2.KillAndReleaseResponse:
    """A process of 1 GiB that came back in 13 ms."""
    response = release_service_pb2.KillAndReleaseResponse()
    response.result.verdict = outcome_pb2.VERDICT_RELEASED
    response.result.released_bytes = GIB
    process = response.result.processes.add()
    process.process.CopyFrom(request.target.process)
    process.command = "trainer"
    process.outcome = outcome_pb2.OUTCOME_RELEASED
    process.memory_before.anon_bytes = process.released_bytes = GIB
    process.release_duration.FromMilliseconds(13)
    process.exit_duration.FromMilliseconds(90)
    for name, value in changes.items():
        setattr(process, name, value)
    return response


def held(request: Any) -> release_service_pb2.KillAndReleaseResponse:
    response = killed(request, outcome=outcome_pb2.OUTCOME_HELD, released_bytes=0, cause="It waits.", remedy="Unfreeze it.", state="D")
    response.result.verdict, response.result.released_bytes = outcome_pb2.VERDICT_HELD, 0
    response.result.processes[0].ClearField("release_duration")
    response.result.processes[0].ClearField("exit_duration")
    return response


def by_pid(answers: dict[int, Callable[[Any], Message] | Fail]) -> Callable[[Any], Message | Fail]:
    def answer(request: Any) -> Message | Fail:
        chosen = answers[request.target.process.pid]
        return chosen if isinstance(chosen, Fail) else chosen(request)

    return answer


def test_kill_prints_the_table_of_the_design(fake: FakeAgent, cli: Cli) -> None:
    done = cli("kill", "4711")
    assert (done.code, done.err) == (0, "")
    assert done.lines == [
        " PID  COMMAND  VERDICT           RELEASED  BACK IN  EXITED IN",
        "4711  trainer  RELEASED  1.00 of 1.00 GiB    13 ms      90 ms",
    ]


def test_kill_asks_what_its_options_say(fake: FakeAgent, cli: Cli) -> None:
    options = [
        "--wait",
        "exited",
        "--timeout",
        "1m",
        "--reap-delay",
        "2ms",
        "--reason",
        "because",
        "--node",
        "n7",
        "--boot-id",
        "b1",
        "--dry-run",
    ]
    assert cli("kill", "4711:99", *options).code == 0
    request = fake.seen[0].request
    expected = release_service_pb2.KillAndReleaseRequest(
        wait=outcome_pb2.WAIT_EXITED,
        timeout=Duration(seconds=60),
        reap_delay=Duration(nanos=2_000_000),
        reason="because",
        validate_only=True,
    )
    expected.target.process.pid, expected.target.process.pidfd_inode = 4711, 99
    expected.node.name, expected.node.boot_id = "n7", "b1"
    assert request == expected


def test_release_asks_for_release(fake: FakeAgent, cli: Cli) -> None:
    assert cli("release", "4711", "--timeout", "2s").code == 0
    assert [(s.method, s.request.timeout.seconds, s.request.HasField("node")) for s in fake.seen] == [("Release", 2, False)]


def test_several_have_a_row_each_and_a_total_and_do_not_stop_each_other(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", by_pid({1: PROTECTED, 7: GONE, 8: killed, 9: held}))
    done = cli("kill", "1", "7", "8", "9", "8")
    assert done.lines == [
        "PID  COMMAND  VERDICT                    RELEASED  BACK IN  EXITED IN",
        "  1  -        PROTECTED                         -        -          -",
        "  7  -        PROCESS_NOT_FOUND                 -        -          -",
        "  8  trainer  RELEASED           1.00 of 1.00 GiB    13 ms      90 ms",
        "  9  trainer  HELD               0.00 of 1.00 GiB        -          -",
        "total: 1.00 of 2.00 GiB back from 2 processes",
        "9: It waits.",
        "  state D",
        "  Unfreeze it.",
        "1: protected (choose another)",
        "7: no process has pid 7: gone",
    ]
    assert done.code == 3
    assert fake.count("KillAndRelease") == 4


@pytest.mark.parametrize(
    ("answer", "code"),
    [(held, 3), (PROTECTED, 4), (GONE, 5), (Fail(grpc.StatusCode.CANCELLED), 3), (Fail(grpc.StatusCode.INTERNAL), 1)],
)
def test_the_exit_code_tells_what_happened(fake: FakeAgent, cli: Cli, answer: Any, code: int) -> None:
    fake.script("KillAndRelease", answer)
    assert cli("kill", "7").code == code


def test_several_are_asked_at_the_same_time(fake: FakeAgent, cli: Cli) -> None:
    together = threading.Barrier(30)

    def answer(request: Any) -> Message:
        together.wait(60)
        return killed(request)

    fake.script("KillAndRelease", answer)
    assert cli("kill", *map(str, range(1, 31))).code == 0


@pytest.mark.parametrize("arguments", ["-o json kill 7 9", "kill 7 9 -o json", "-o yaml kill 7 9 -o json"])
def test_json_has_a_result_or_an_error_for_each(fake: FakeAgent, cli: Cli, arguments: str) -> None:
    fake.script("KillAndRelease", by_pid({7: GONE, 9: held}))
    done = cli(*arguments.split())
    assert done.code == 3
    gone, kept = done.data["results"]
    assert (gone["result"], gone["error"]["reason"], gone["error"]["code"]) == (None, "PROCESS_NOT_FOUND", "NOT_FOUND")
    assert gone["error"]["nothing_signalled"] is True
    assert kept["error"] is None
    assert json_format.ParseDict(kept["result"], result_pb2.ReleaseResult()).processes[0].cause == "It waits."
    assert kept["target"]["process"]["pid"] == 9


def test_yaml_says_the_same(fake: FakeAgent, cli: Cli) -> None:
    assert yaml.safe_load(cli("kill", "7", "-o", "yaml").out) == cli("kill", "7", "-o", "json").data


def test_ps_prints_the_identity_to_kill_by_and_no_escapes(fake: FakeAgent, cli: Cli) -> None:
    response = node_service_pb2.ListProcessesResponse()
    big, hostile = response.processes.add(), response.processes.add()
    big.process.pid, big.process.pidfd_inode, big.command, big.state, big.threads = 4711, 99, "trainer", "R", 12
    big.reclaimable_bytes, big.memory.file_bytes, big.memory.shmem_bytes, big.uid = GIB, 2 << 20, 3 << 20, 0
    hostile.process.pid, hostile.command, hostile.state, hostile.threads, hostile.uid = 5, "\x1b[2J\nx", "S", 1, 4_000_000_000
    hostile.protection = "configured name"
    fake.script("ListProcesses", response)
    done = cli("ps")
    assert done.code == 0
    assert done.lines == [
        "PID:INODE  USER        STATE  THREADS  RECLAIMABLE      FILE     SHMEM  COMMAND     PROTECTED",
        "4711:99    root        R           12     1.00 GiB  2.00 MiB  3.00 MiB  trainer",
        "5          4000000000  S            1          0 B       0 B       0 B  \\x1b[2J\\nx  configured name",
    ]
    assert cli("kill", done.lines[1].split()[0]).code == 0
    assert fake.seen[-1].request.target.process.pidfd_inode == 99


def test_ps_notes_what_a_death_would_not_give_back(fake: FakeAgent, cli: Cli) -> None:
    response = node_service_pb2.ListProcessesResponse()
    shared, huge, plain = response.processes.add(), response.processes.add(), response.processes.add()
    shared.process.pid, shared.command = 1, "twin"
    shared.sharing_pids.extend([7, 8, 9, 10, 11])
    shared.unreleased.add(cause=outcome_pb2.UNRELEASED_CAUSE_SHARED_MM, size_bytes=GIB)
    huge.process.pid, huge.command, huge.protection = 2, "db", "configured name"
    huge.sharing_pids.append(1)
    huge.unreleased.add(cause=outcome_pb2.UNRELEASED_CAUSE_SHMEM, size_bytes=GIB)
    huge.unreleased.add(cause=outcome_pb2.UNRELEASED_CAUSE_HUGETLB, size_bytes=8 << 20)
    plain.process.pid, plain.command = 3, "plain"
    plain.unreleased.add(cause=outcome_pb2.UNRELEASED_CAUSE_SHMEM, size_bytes=GIB)
    fake.script("ListProcesses", response)
    header, *rows = cli("ps").lines
    assert header.endswith("  COMMAND  PROTECTED        NOTES")
    assert [row[header.index("COMMAND") :] for row in rows] == [
        "twin                      shares memory with 7, 8, 9 and 2 more",
        "db       configured name  keeps 8.00 MiB HUGETLB; shares memory with 1",
        "plain",
    ]


def test_ps_asks_for_what_its_options_say(fake: FakeAgent, cli: Cli) -> None:
    fake.script("ListProcesses", node_service_pb2.ListProcessesResponse())
    for arguments in (["ps"], ["ps", "-n", "7", "--user", "root"], ["ps", "--all", "-u", "1234"]):
        assert cli(*arguments).code == 0
    requests = [s.request for s in fake.seen]
    assert [(r.page_size, r.uid if r.HasField("uid") else None) for r in requests] == [(20, None), (7, 0), (1000, 1234)]


def test_ps_and_node_have_the_contracts_json(fake: FakeAgent, cli: Cli) -> None:
    listed, described = full_message(node_service_pb2.ListProcessesResponse), full_message(node_service_pb2.GetNodeResponse)
    listed.next_page_token = ""
    fake.script("ListProcesses", listed)
    fake.script("GetNode", described)
    assert json_format.Parse(cli("ps", "-o", "json").out, node_service_pb2.ListProcessesResponse()) == listed
    assert json_format.Parse(cli("node", "-o", "json").out, node_service_pb2.Node()) == described.node


def node_with(*off: mrelease.Feature) -> Message:
    response = node_service_pb2.GetNodeResponse()
    response.node.identity.name = "n7"
    response.node.agent_version = "0.1.0"
    for feature in list(mrelease.Feature)[1:]:
        capability = response.node.capabilities.add(feature=int(feature), available=feature not in off)
        if feature in off:
            capability.reason, capability.remedy = f"no {feature}", f"get {feature}"
    return response


def test_node_describes_the_node(fake: FakeAgent, cli: Cli) -> None:
    fake.script("GetNode", node_with(mrelease.Feature.KILL_ANY_USER))
    done = cli("node")
    assert done.code == 0
    assert done.lines[0] == "node    n7"
    assert done.lines[-1] == "cannot  KILL_ANY_USER (why: mrelease doctor)"


def test_doctor_where_all_works(fake: FakeAgent, cli: Cli) -> None:
    fake.script("GetNode", node_with())
    done = cli("doctor")
    assert done.code == 0
    assert all(line.startswith("ok ") for line in done.lines)
    assert len(done.lines) == len(mrelease.Feature)


def test_doctor_where_something_optional_is_off(fake: FakeAgent, cli: Cli) -> None:
    fake.script("GetNode", node_with(mrelease.Feature.KILL_ANY_USER))
    done = cli("doctor")
    assert done.code == 0
    at = done.lines.index("off      KILL_ANY_USER: no KILL_ANY_USER")
    assert done.lines[at + 1] == "         get KILL_ANY_USER"


def test_doctor_where_something_needed_is_missing(fake: FakeAgent, cli: Cli) -> None:
    fake.script("GetNode", node_with(mrelease.Feature.PROCESS_MRELEASE))
    done = cli("doctor")
    assert done.code == 7
    assert "missing  PROCESS_MRELEASE: no PROCESS_MRELEASE" in done.lines
    assert cli("doctor", "-o", "json").data["missing"] == ["FEATURE_PROCESS_MRELEASE"]


def test_doctor_of_an_agent_that_does_not_say(fake: FakeAgent, cli: Cli) -> None:
    fake.script("GetNode", node_service_pb2.GetNodeResponse())
    done = cli("doctor")
    assert done.code == 7
    assert done.lines[-1] == "missing  PROCESS_MRELEASE: the agent does not say whether it works"


def test_doctor_and_the_others_where_no_agent_is(cli: Cli, tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/none.sock"
    done = cli("doctor", "--agent", nowhere)
    assert done.code == 6
    assert done.lines[0] == f"missing  agent: there is no socket {tmp_path}/none.sock"
    assert "mrelease-agent" in done.lines[1]
    assert cli("doctor", "--agent", nowhere, "-o", "json").data["error"]["nothing_signalled"] is True
    for arguments in (["node"], ["ps"], ["kill", "7", "8"], ["release", "7"]):
        done = cli(*arguments, "--agent", nowhere)
        assert done.code == 6
        # Once, however many processes were named.
        assert (done.out + done.err).count("there is no socket") == 1
    assert cli("ps", "--agent", nowhere, "-o", "json").data["error"]["code"] == "UNAVAILABLE"


def test_an_interruption_is_130_without_a_traceback(fake: FakeAgent) -> None:
    asked, finish = threading.Event(), threading.Event()

    def answer(request: Any) -> Message:
        asked.set()
        finish.wait(60)
        return killed(request)

    fake.script("KillAndRelease", answer)
    child = subprocess.Popen([MRELEASE, "kill", "7"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert asked.wait(60)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    finally:
        finish.set()
        child.kill()
        child.wait()
    assert (child.returncode, out) == (130, "")
    assert err.strip() == "mrelease: interrupted; what was already signalled is released to its end by the agent"


def test_demo_is_told_its_options(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    def run(**options: Any) -> int:
        told.append(options)
        return 0

    monkeypatch.setattr("mrelease.demo.run", run)
    assert cli("demo", "--json", "--size", "512MiB", "--limit", "1m", "--png", "x.png").code == 0
    assert cli("demo").code == 0
    assert told == [
        {"size_bytes": 512 << 20, "limit_seconds": 60.0, "as_json": True, "png": "x.png"},
        {"size_bytes": GIB, "limit_seconds": 20.0, "as_json": False, "png": None},
    ]


def test_the_cli_prints_what_print_prints(fake: FakeAgent, cli: Cli) -> None:
    done: Done = cli("kill", "4711", "--dry-run")
    assert done.code == 0
    with mrelease.Client(fake.address) as client:
        assert done.lines == str(client.kill_and_release(mrelease.Process(4711), validate_only=True)).splitlines()
