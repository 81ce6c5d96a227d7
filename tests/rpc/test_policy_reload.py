"""The file of the access policy: exchanged while operations run, refused where it is broken."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Generator
from pathlib import Path

import grpc

from mrelease.v1 import release_service_pb2
from support import lab, raw
from support.agent import agent_command, clean_environment
from support.certified import Certified, certified_agent
from support.policed import DENIED, alive, gone, process, write

# The file


@contextlib.contextmanager
def own_agent(folder: Path, text: str, *flags: str) -> Generator[Certified]:
    write(folder / "policy.yaml", text)
    with certified_agent(folder / "agent", "--policy", str(folder / "policy.yaml"), "--audit-dir", "none", *flags) as node:
        yield node


OPS = """
version: 1
rules:
- name: ops
  callers: [{cn: ops}]
  methods: [KillAndRelease, GetNode]
"""


def test_a_policy_is_exchanged_while_operations_run(tmp_path: Path) -> None:
    with own_agent(tmp_path, OPS) as node, node.caller("ops") as ops, lab.live(lab.MIB) as stubborn, lab.live(lab.MIB) as next_:
        lab.until(lambda: ops(raw.GET_NODE, b"").code is grpc.StatusCode.OK, "the agent answers")
        request = release_service_pb2.KillAndReleaseRequest(target=process(stubborn.pid), signal="SIGURG")
        request.grace_period.FromSeconds(60)  # SIGURG is ignored: it waits
        request.timeout.FromSeconds(120)
        running = ops.start(raw.KILL, request.SerializeToString(), raw.PATIENCE)
        validated = request.__class__(target=process(next_.pid), validate_only=True).SerializeToString()
        lab.until(lambda: ops(raw.KILL, validated).code is grpc.StatusCode.OK, "a request is allowed")

        write(tmp_path / "policy.yaml", OPS.replace("KillAndRelease, ", ""))
        lab.until(lambda: ops(raw.KILL, validated).code is DENIED, "the new policy is taken")
        assert ops(raw.GET_NODE, b"").code is grpc.StatusCode.OK
        assert not running.done()
        stubborn.kill()
        assert gone(ops.finish(running))
        assert alive(next_)


def test_a_broken_policy_is_not_taken(tmp_path: Path) -> None:
    with own_agent(tmp_path, OPS) as node, node.caller("ops") as ops:
        assert ops(raw.GET_NODE, b"").code is grpc.StatusCode.OK
        write(tmp_path / "policy.yaml", OPS.replace("cn: ops", ""))
        lab.until(lambda: "so it would be everybody" in node.agent.log, "the agent says so")
        (tmp_path / "policy.yaml").chmod(0o666)
        lab.until(lambda: "chmod go-w" in node.agent.log, "the agent says so")
        assert ops(raw.GET_NODE, b"").code is grpc.StatusCode.OK
        write(tmp_path / "policy.yaml", "version: 1\nrules: []\n")
        lab.until(lambda: ops(raw.GET_NODE, b"").code is DENIED, "the new policy is taken")


def refused_start(*flags: str) -> str:
    ran = subprocess.run(agent_command(*flags), env=clean_environment(), capture_output=True, text=True, check=False, timeout=raw.PATIENCE)
    assert ran.returncode == 2, ran
    assert "Traceback" not in ran.stderr
    return ran.stderr


def test_an_agent_does_not_start_with_a_broken_policy(tmp_path: Path) -> None:
    write(tmp_path / "policy.yaml", OPS.replace("methods", "method"))
    said = refused_start("--listen", f"unix://{tmp_path}/run/agent.sock", "--policy", str(tmp_path / "policy.yaml"))
    assert f'{tmp_path}/policy.yaml:6: rules[0].method is no key that is known there: did you mean "methods"?' in said
    said = refused_start("--listen", f"unix://{tmp_path}/run/agent.sock", "--policy", str(tmp_path / "nowhere"))
    assert "cannot read" in said


def test_tls_without_a_policy_is_refused(tmp_path: Path) -> None:
    flags = [f"--tls-{key}={tmp_path / key}" for key in ("cert", "key", "ca")]
    said = refused_start("--listen", f"unix://{tmp_path}/run/agent.sock", "--tls-listen", "127.0.0.1:0", *flags, "--audit-dir", "none")
    assert "policy is not set" in said
    assert "mrelease policy check" in said
