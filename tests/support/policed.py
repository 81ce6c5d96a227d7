"""An agent with an access policy: the policy of most tests, requests, and what the answers say."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2, target_pb2
from support import lab, raw
from support.certified import Certified
from support.kubepods import Kubepods

DENIED = grpc.StatusCode.PERMISSION_DENIED


REASON = "CALLER_NOT_PERMITTED"


RECLAIM, WATCH = (f"/mrelease.v1.ReleaseService/{name}" for name in ("Reclaim", "WatchRelease"))


NOBODY = 65534


PREEMPTOR = "spiffe://cluster.local/ns/kueue/sa/controller"


def policy(root: str) -> str:
    """The policy of most tests; ``root`` is the cgroup of the lab."""
    return f"""
version: 1
rules:
- name: admins
  callers: [{{transport: unix, unix_uid: {os.geteuid()}}}]
  methods: ["*"]
- name: preemptor
  callers: [{{uri: "spiffe://cluster.local/ns/kueue/sa/*"}}, {{cn: other}}]
  methods: [KillAndRelease, Release, Reclaim, WatchRelease, ListProcesses, WatchMemory]
  targets: {{namespaces: [ml, "batch-*"]}}
- name: pods-alone
  callers: [{{cn: podder}}]
  methods: [KillAndRelease]
  targets: {{kinds: [pod], namespaces: [ml]}}
- name: besteffort
  callers: [{{cn: evictor}}]
  methods: [KillAndRelease]
  targets: {{cgroups: [{root}/kubepods/besteffort]}}
- name: of-one-user
  callers: [{{cn: slurm}}]
  methods: [KillAndRelease, ListProcesses]
  targets: {{users: [{NOBODY}]}}
- name: dashboard
  callers: [{{dns: "*.monitoring.example"}}]
  methods: [GetNode, ListProcesses, WatchMemory]
- name: few
  callers: [{{cn: few}}]
  methods: [KillAndRelease]
  targets: {{namespaces: [ml]}}
  limits: {{max_kills: 2, window: 1h}}
"""


@dataclass(frozen=True)
class Scene:
    """An agent with the policy, and the pods of its node."""

    node: Certified
    pods: Kubepods
    made: contextlib.ExitStack

    def caller(self, name: str, **names: Any) -> raw.Caller:
        return self.made.enter_context(self.node.caller(name, **names))

    def preemptor(self) -> raw.Caller:
        return self.caller("preemptor", uris=[PREEMPTOR])


def write(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    new.rename(file)


def process(pid: int, **more: Any) -> target_pb2.Target:
    return target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid, **more))


def pod(uid: str) -> target_pb2.Target:
    return target_pb2.Target(pod=target_pb2.PodTarget(uid=uid))


def container(id_: str) -> target_pb2.Target:
    return target_pb2.Target(container=target_pb2.ContainerTarget(id=id_))


def cgroup(path: str) -> target_pb2.Target:
    return target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=path))


def kill(caller: raw.Caller, target: target_pb2.Target, **more: Any) -> raw.Answer:
    return caller(raw.KILL, release_service_pb2.KillAndReleaseRequest(target=target, **more).SerializeToString())


def release(caller: raw.Caller, target: target_pb2.Target) -> raw.Answer:
    return caller(raw.RELEASE, release_service_pb2.ReleaseRequest(target=target).SerializeToString())


def listed(caller: raw.Caller, **more: Any) -> set[int]:
    answer = caller(raw.LIST, node_service_pb2.ListProcessesRequest(page_size=1000, **more).SerializeToString())
    assert answer.code is grpc.StatusCode.OK, answer
    return {row.process.pid for row in node_service_pb2.ListProcessesResponse.FromString(answer.body).processes}


def verdict(answer: raw.Answer) -> int:
    assert answer.code is grpc.StatusCode.OK, answer
    return release_service_pb2.KillAndReleaseResponse.FromString(answer.body).result.verdict


def gone(answer: raw.Answer) -> bool:
    return verdict(answer) in (outcome_pb2.VERDICT_RELEASED, outcome_pb2.VERDICT_EXITED)


def alive(victim: lab.Victim) -> bool:
    return not victim.exited(0)


def told(answer: raw.Answer) -> tuple[Any, str, bytes]:
    """All that a refused caller can see."""
    return answer.code, answer.message, answer.status
