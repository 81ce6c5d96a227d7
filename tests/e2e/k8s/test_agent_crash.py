"""The agent is killed in the middle of an operation: the log says so, and what it had changed on the node is put back."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.cluster import Cluster
from e2e.k8s.hanging import await_d_state, hanging_pod
from e2e.k8s.release import Release
from e2e.k8s.victims import await_restart
from mrelease import Boost, Container, Wait
from mrelease.errors import OutcomeUnknown
from support.lab import until


def test_an_agent_that_is_killed_in_the_middle_says_so_in_its_log_and_restores_weights(
    release: Release, cluster: Cluster, namespace: str, victim_node: str
) -> None:
    node = cluster.node(victim_node)
    pod = release.agents()[victim_node]
    with hanging_pod(cluster, node, namespace) as victim:
        container = victim.containers["hog"]
        above = [Path(str(group).replace("/memory/", "/cpu/", 1)) / "cpu.shares" for group in _ancestors(node.cgroup(container))]
        weights = [file.read_text() for file in above]
        with release.client(victim_node) as caller, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(
                caller.kill_and_release,
                Container(container),
                boost=Boost.LIFT,
                wait=Wait.EXITED,
                timeout=120,
                request_id="killed-in-the-middle",
            )
            await_d_state(node, container)
            until(lambda: [file.read_text() for file in above] != weights, "weights above the victim to be lifted")
            (pid,) = node.pids(pod.containers["agent"])
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(OutcomeUnknown):
                answer.result(timeout=60)
        assert await_restart(cluster, pod, "agent").uid == pod.uid
        until(lambda: [file.read_text() for file in above] == weights, "the next agent to restore the weights")
        events = [record["event"] for record in release.audit(victim_node) if container in str(record)]
        assert "intent" in events
        assert "result" not in events
        assert any(record["event"] == "interrupted" for record in release.audit(victim_node))


def _ancestors(group: Path) -> list[Path]:
    """The cgroups above a container's, up to that of all pods."""
    above = [group.parent]
    while above[-1].name != "kubepods":
        above.append(above[-1].parent)
    return above
