"""Containers, pods and cgroups on the command line, against a scripted agent."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from mrelease import _status
from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2, target_pb2
from support.sdk_cli import Cli, cli_in
from support.sdk_fake_agent import Fail, FakeAgent, fake_agent

MRELEASE = str(Path(sys.executable).with_name("mrelease"))
MIB = 1 << 20
ID = "0123456789abcdef" * 4
UID = "6f1e0a52-7d0c-4b3e-9d53-0a4c5b1f2e3d"
NO_SUCH = Fail(grpc.StatusCode.NOT_FOUND, "no such cgroup", _status.ErrorDetails("TARGET_NOT_FOUND", {"remedy": "list them"}))
AMBIGUOUS = Fail(grpc.StatusCode.FAILED_PRECONDITION, "two begin so", _status.ErrorDetails("TARGET_AMBIGUOUS", {"remedy": "say more"}))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as fake:
        monkeypatch.setenv("MRELEASE_AGENT", fake.address)
        fake.script("KillAndRelease", answer)
        fake.script("Release", NO_SUCH)
        fake.script("ListProcesses", node_service_pb2.ListProcessesResponse())
        yield fake


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


def killed(count: int, *, held: tuple[int, ...] = ()) -> release_service_pb2.KillAndReleaseResponse:
    """A group of processes of 100 MiB each, with pids from 1, of which some are held."""
    response = release_service_pb2.KillAndReleaseResponse()
    response.result.verdict = outcome_pb2.VERDICT_PARTIAL if held else outcome_pb2.VERDICT_RELEASED
    for pid in range(1, count + 1):
        process = response.result.processes.add(command="worker", outcome=outcome_pb2.OUTCOME_RELEASED, released_bytes=100 * MIB)
        process.process.pid, process.memory_before.anon_bytes = pid, 100 * MIB
        if pid in held:
            process.outcome, process.released_bytes, process.cause = outcome_pb2.OUTCOME_HELD, 0, "It waits."
    response.result.released_bytes = sum(p.released_bytes for p in response.result.processes)
    return response


def answer(request: Any) -> Message | Fail:
    """Two processes for a container, of which a file stays; one for a pod; no such cgroup."""
    kind = request.target.WhichOneof("kind")
    if kind == "cgroup":
        return NO_SUCH
    response = killed(2 if kind == "container" else 1)
    if kind == "container":
        response.result.unreleased.add(cause=outcome_pb2.UNRELEASED_CAUSE_SHMEM, size_bytes=64 * MIB)
    return response


def test_a_group_has_a_row_for_each_process_a_total_and_what_stays(fake: FakeAgent, cli: Cli) -> None:
    done = cli("kill", "--container", ID)
    assert (done.code, done.err) == (0, "")
    assert done.lines == [
        "PID  COMMAND  VERDICT         RELEASED  BACK IN  EXITED IN",
        "  1  worker   RELEASED  100 of 100 MiB        -          -",
        "  2  worker   RELEASED  100 of 100 MiB        -          -",
        "total: 200 of 200 MiB back from 2 processes",
        "64.0 MiB SHMEM stays charged",
    ]


def test_several_targets_have_a_total_each_and_together(fake: FakeAgent, cli: Cli) -> None:
    done = cli("kill", "7", "--container", ID, "--pod", UID, "--cgroup", "/a", "--cgroup", "/b")
    assert done.lines == [
        "PID  COMMAND    VERDICT                 RELEASED  BACK IN  EXITED IN",
        "  1  worker     RELEASED          100 of 100 MiB        -          -",
        "  1  worker     RELEASED          100 of 100 MiB        -          -",
        "  2  worker     RELEASED          100 of 100 MiB        -          -",
        "  1  worker     RELEASED          100 of 100 MiB        -          -",
        "  -  cgroup /a  TARGET_NOT_FOUND               -        -          -",
        "  -  cgroup /b  TARGET_NOT_FOUND               -        -          -",
        "container 0123456789ab: 200 of 200 MiB back from 2 processes",
        "total: 400 of 400 MiB back from 4 processes",
        "container 0123456789ab: 64.0 MiB SHMEM stays charged",
        "cgroup /a, cgroup /b: no such cgroup (list them)",
    ]
    assert done.code == 5


@pytest.mark.parametrize("command", ["kill", "release"])
def test_every_kind_is_asked_for_once(fake: FakeAgent, cli: Cli, command: str) -> None:
    arguments = ["7:9", "--container", ID, "--container", ID[:12], "--cgroup", "/a", "--cgroup", "/a", "--pod", UID]
    cli(command, *arguments, "--pod-container", "a", "--pod-container", "b")
    expected = [
        target_pb2.Target(process=target_pb2.ProcessTarget(pid=7, pidfd_inode=9)),
        target_pb2.Target(container=target_pb2.ContainerTarget(id=ID)),
        target_pb2.Target(container=target_pb2.ContainerTarget(id=ID[:12])),
        target_pb2.Target(pod=target_pb2.PodTarget(uid=UID, containers=["a", "b"])),
        target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/a")),
    ]
    asked = [seen.request.target for seen in fake.seen]
    assert len(asked) == len(expected)
    assert all(target in asked for target in expected)


@pytest.mark.parametrize("command", ["kill", "release"])
def test_pids_in_a_container_are_asked_for_as_such(fake: FakeAgent, cli: Cli, command: str) -> None:
    cli(command, "7:9", "8", "--in-container", ID, "--container", ID)
    asked = [seen.request.target for seen in fake.seen]
    assert len(asked) == 3
    for target in (
        target_pb2.Target(process=target_pb2.ProcessTarget(pid=7, pidfd_inode=9, container_id=ID)),
        target_pb2.Target(process=target_pb2.ProcessTarget(pid=8, container_id=ID)),
        target_pb2.Target(container=target_pb2.ContainerTarget(id=ID)),
    ):
        assert target in asked


def test_a_pid_in_a_container_is_not_taken_for_the_nodes_in_what_is_said_of_it(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", Fail(grpc.StatusCode.NOT_FOUND, "none", _status.ErrorDetails("PROCESS_NOT_FOUND", {"remedy": "look"})))
    done = cli("kill", "7", "--in-container", ID)
    assert done.code == 5
    assert done.lines[1].split() == ["-", "7", "in", "container", ID[:12], "PROCESS_NOT_FOUND", "-", "-", "-"]
    assert done.lines[-1] == f"7 in container {ID[:12]}: none (look)"


@pytest.mark.parametrize(
    "arguments",
    [
        ["kill"],
        ["kill", "7", "--in-container", ""],
        ["kill", "--in-container", ID],
        ["kill", "--in-container", ID, "--container", ID],
        ["release", "--timeout", "1s"],
        ["kill", "7", "--pod-container", "a"],
        ["kill", "--pod", "a", "--pod", "b", "--pod-container", "c"],
        ["ps", "--pod", "a", "--cgroup", "/b"],
    ],
    ids=" ".join,
)
def test_what_is_not_to_be_understood_is_not_asked(fake: FakeAgent, cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.out, fake.seen) == (2, "", [])
    assert "Usage:" in done.err


def test_an_ambiguous_target_is_a_request_to_correct(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", AMBIGUOUS)
    done = cli("kill", "--container", ID[:12])
    assert done.code == 2
    assert done.lines[-1] == "container 0123456789ab: two begin so (say more)"


def test_json_has_the_contracts_target_and_every_process(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", killed(60))
    data = cli("kill", "7", "--container", ID, "--pod", UID, "--pod-container", "a", "--cgroup", "/a", "-o", "json").data
    targets = [json_format.ParseDict(entry["target"], target_pb2.Target()) for entry in data["results"]]
    assert [target.WhichOneof("kind") for target in targets] == ["process", "container", "pod", "cgroup"]
    assert list(targets[2].pod.containers) == ["a"]
    assert {len(entry["result"]["processes"]) for entry in data["results"]} == {60}


def test_a_hostile_path_does_not_reach_the_terminal(fake: FakeAgent, cli: Cli) -> None:
    assert "\x1b" not in cli("kill", "--cgroup", "/\x1b[2J").out


def test_a_pipe_gets_every_row(fake: FakeAgent, cli: Cli) -> None:
    fake.script("KillAndRelease", killed(60))
    assert len([line for line in cli("kill", "--container", ID).lines if "worker" in line]) == 60


def test_a_terminal_gets_fifty_rows_and_never_hides_what_is_held(fake: FakeAgent) -> None:
    fake.script("KillAndRelease", killed(60, held=(58, 60)))
    lines, code = on_a_terminal("kill", "--container", ID)
    rows = [line.split() for line in lines if "worker" in line]
    assert [int(row[0]) for row in rows] == [*range(1, 49), 58, 60]
    assert [row[2] for row in rows[-2:]] == ["HELD", "HELD"]
    assert lines[51:] == ["... and 10 more", "total: 5.66 of 5.86 GiB back from 60 processes", "58, 60: It waits."]
    assert code == 3


def on_a_terminal(*arguments: str) -> tuple[list[str], int]:
    """What a command prints on a terminal, without colours, and its exit code."""
    reader, terminal = pty.openpty()
    with subprocess.Popen([MRELEASE, *arguments], stdout=terminal, stderr=terminal, env={**os.environ, "NO_COLOR": "1"}) as child:
        os.close(terminal)
        text = b""
        # A terminal that nobody writes to any more reads as EIO.
        while part := _read(reader):
            text += part
    os.close(reader)
    return text.decode().splitlines(), child.returncode


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("arguments", "within"),
    [
        ([], None),
        (["--container", ID], target_pb2.Target(container=target_pb2.ContainerTarget(id=ID))),
        (["--pod", UID], target_pb2.Target(pod=target_pb2.PodTarget(uid=UID))),
        (["--cgroup", "/a"], target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/a"))),
        # As of a variable that is not set: for the agent to refuse, never the whole node.
        (["--pod", ""], target_pb2.Target(pod=target_pb2.PodTarget())),
    ],
)
def test_ps_lists_what_is_within(fake: FakeAgent, cli: Cli, arguments: list[str], within: target_pb2.Target | None) -> None:
    assert cli("ps", *arguments).code == 0
    request = fake.seen[0].request
    assert (request.within if request.HasField("within") else None) == within


def test_ps_shows_containers_where_there_are_some(fake: FakeAgent, cli: Cli) -> None:
    response = node_service_pb2.ListProcessesResponse()
    response.processes.add(process=target_pb2.ProcessTarget(pid=4), command="in", container_id=ID)
    response.processes.add(process=target_pb2.ProcessTarget(pid=5), command="out")
    fake.script("ListProcesses", response)
    header, inside, outside = (line.split() for line in cli("ps").lines)
    assert header[-3:] == ["CONTAINER", "COMMAND", "PROTECTED"]
    assert (inside[-2:], outside[-2:]) == ([ID[:12], "in"], ["-", "out"])
