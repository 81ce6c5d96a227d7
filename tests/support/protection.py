"""Who is protected, asked of the rules and of an agent."""

from __future__ import annotations

import secrets
import uuid

import pytest

from mrelease import Client, Process, Target, errors
from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.process import ProcessRef
from support import lab

SIZE = 4 * lab.MIB


KUBELET = "/var/lib/kubelet/pod-resources/kubelet.sock"


def path_of(group: lab.Cgroup) -> str:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    return tree.top.rstrip("/") + "/" + str(group.path.relative_to(tree.mount.path))


def new_pod() -> tuple[str, str]:
    """Uid of a pod, and a path for a container in it."""
    uid = str(uuid.uuid4())
    return uid, f"kubepods/burstable/pod{uid}/{secrets.token_hex(32)}"


def rule(pid: int, protection: Protection | None = None) -> str | None:
    with ProcessRef.open(pid) as ref:
        return (protection or Protection()).rule(ref)


def refused(node: Client, target: Target) -> tuple[str, int]:
    """Rule and pid of the refusal of a kill."""
    with pytest.raises(errors.Protected) as caught:
        node.kill_and_release(target)
    assert "nothing was signalled" in str(caught.value)
    assert caught.value.metadata["remedy"]
    return caught.value.metadata["rule"], int(caught.value.metadata["pid"])


def dies(node: Client, victim: lab.Victim) -> bool:
    node.kill_and_release(Process(victim.pid))
    return victim.exited()
