"""The contract from outside: grpcurl knows the agent by its .proto files alone, and reads results and errors as JSON."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import lab
from support.agent import Agent
from support.markdown import ROOT

VERSION = "v1.9.3"
PROTO, ALSO = ROOT / "proto", ROOT / "examples" / "proto"
SIZE = 16 * lab.MIB


@pytest.fixture(scope="module")
def grpcurl() -> str:
    """grpcurl from PATH."""
    found = shutil.which("grpcurl")
    if found is None:
        pytest.skip(f"grpcurl is not installed: go install github.com/fullstorydev/grpcurl/cmd/grpcurl@{VERSION}")
    return found


@dataclass(frozen=True, slots=True)
class Caller:
    """Calls with JSON and gets JSON."""

    program: str
    agent: Agent

    def run(self, method: str, request: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
        protos = ["release_service", "node_service", "error_reason"]
        return subprocess.run(
            [
                *(self.program, "-plaintext", "-format-error", "-max-time", "30"),
                *("-import-path", str(PROTO), "-import-path", str(ALSO)),
                *(part for name in protos for part in ("-proto", f"mrelease/v1/{name}.proto")),
                *("-proto", "google/rpc/error_details.proto", *flags, "-d", json.dumps(request)),
                *(f"unix://{self.agent.path}", f"mrelease.v1.{method}"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )

    def call(self, method: str, request: dict[str, Any], *flags: str) -> dict[str, Any]:
        done = self.run(method, request, *flags)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def refusal(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        done = self.run(method, request)
        assert done.returncode != 0
        status: dict[str, Any] = json.loads(done.stderr)
        return status


@pytest.fixture
def caller(grpcurl: str, agent: Agent) -> Caller:
    return Caller(grpcurl, agent)


def test_kill_by_the_identity_that_a_list_gave(caller: Caller) -> None:
    with lab.live(SIZE) as victim:
        listed = caller.call("NodeService/ListProcesses", {"pageSize": 1000})
        row = next(row for row in listed["processes"] if row["process"]["pid"] == str(victim.pid))
        request = {
            "target": {"process": row["process"]},
            "node": {"bootId": listed["node"]["bootId"]},
            "wait": "WAIT_EXITED",
            "reason": "go",
        }
        result = caller.call("ReleaseService/KillAndRelease", {**request, "timeout": "20s"})["result"]
        assert result["verdict"] in ("VERDICT_RELEASED", "VERDICT_EXITED")
        assert int(result["releasedBytes"]) >= SIZE
        (process,) = result["processes"]
        assert process["process"] == row["process"]
        assert process["proof"] in ("PROOF_RELEASE", "PROOF_CGROUP", "PROOF_EXIT")
        assert process["exitDuration"].endswith("s")
        assert victim.exited(0)


def test_get_node(caller: Caller) -> None:
    node = caller.call("NodeService/GetNode", {})["node"]
    assert node["identity"]["bootId"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {row["feature"] for row in node["capabilities"]} >= {"FEATURE_PROCESS_MRELEASE", "FEATURE_PIDFD_INODE"}


def detail(status: dict[str, Any], name: str) -> dict[str, Any]:
    found = [part for part in status["details"] if part["@type"] == f"type.googleapis.com/google.rpc.{name}"]
    assert len(found) == 1, status
    return dict(found[0])


def test_an_error_can_be_read(caller: Caller) -> None:
    status = caller.refusal("ReleaseService/KillAndRelease", {"target": {"process": {"pid": "1"}}})
    assert status["code"] == 7
    info = detail(status, "ErrorInfo")
    assert (info["reason"], info["domain"]) == ("PROTECTED", "mrelease.dev")
    assert info["metadata"]["rule"] == "init"


def test_a_bad_field_is_named(caller: Caller) -> None:
    status = caller.refusal("ReleaseService/Release", {"target": {"process": {"pid": "-5"}}})
    assert status["code"] == 3
    (violation,) = detail(status, "BadRequest")["fieldViolations"]
    assert violation["field"] == detail(status, "ErrorInfo")["metadata"]["field"] == "target.process.pid"


def test_the_files_say_what_each_method_is_for(caller: Caller) -> None:
    told = subprocess.run(
        [
            *(caller.program, "-import-path", str(PROTO), "-proto", "mrelease/v1/release_service.proto"),
            *("describe", "mrelease.v1.ReleaseService.KillAndRelease"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "Sends SIGKILL to the target and releases its memory" in told
    assert "REAPERS_EXHAUSTED" in told
