"""``kubectl mrelease`` on a real cluster, run as people run it: by kubectl, through the API server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, hog
from e2e.k8s.callers import CALLER, accounts, kubeconfig_of
from e2e.k8s.release import Release
from support.lab import until

pytestmark = pytest.mark.e2e

MIB = 1 << 20
BIN = Path(sys.executable).parent
#: Holds memory, and is deaf to SIGTERM.
_DEAF = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
memory = b"x" * (int(sys.argv[1]) << 20)
pathlib.Path("/tmp/full").touch()
while True:
    signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The plugin, for the agents of a release and the pods of a namespace."""

    release: Release
    namespace: str
    kubeconfig: str

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "KUBECONFIG": self.kubeconfig}
        environment |= {"MRELEASE_KUBERNETES_AGENTS": self.release.namespace}
        command = [self.release.cluster.program, "mrelease", *words, "-n", self.namespace]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def data(self, *words: str, code: int = 0) -> Any:
        done = self.run(*words, "-o", "json")
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def rows(self, *words: str, code: int = 0) -> list[list[str]]:
        done = self.run(*words)
        assert done.returncode == code, done.stdout + done.stderr
        return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture
def plugin(release: Release, namespace: str) -> Plugin:
    return Plugin(release, namespace, str(release.cluster.kubeconfig))


def start(cluster: Cluster, namespace: str, name: str, mib: int = 32, **more: Any) -> Any:
    labels = more.pop("labels", {})
    manifest = hog(name, mib, cluster.image, **more)
    manifest["metadata"]["labels"] = labels
    return cluster.run_pod(manifest, namespace)


def test_kill_brings_the_memory_back_and_names_the_pod(plugin: Plugin, release: Release, namespace: str) -> None:
    pod = start(release.cluster, namespace, "victim", 64, restart="Never")
    (dry,) = plugin.data("kill", "victim", "--dry-run")["results"]
    assert dry["result"]["verdict"] == "VERDICT_VALIDATED"
    assert release.cluster.pod("victim", namespace).phase == "Running", "nobody was signalled"
    header, row, *_ = plugin.rows("kill", "pod/victim")
    assert header == ["POD", "PID", "COMMAND", "VERDICT", "RELEASED", "BACK", "IN", "EXITED", "IN"]
    assert row[0] == "victim"
    assert row[3] in ("RELEASED", "EXITED")
    release.cluster.wait("pod/victim", "jsonpath={.status.phase}=Failed", namespace)
    assert release.cluster.pod("victim", namespace).uid == pod.uid
    said = plugin.run("kill", "victim")
    assert (said.returncode, "finished" in said.stderr) == (5, True)


def test_several_pods_need_a_yes_and_come_in_one_table(plugin: Plugin, release: Release, namespace: str) -> None:
    nodes = sorted(release.agents())
    for number, node in enumerate(nodes):
        start(release.cluster, namespace, f"v{number}", node=node, restart="Never", labels={"app": "v"})
    asked = plugin.run("kill", "-l", "app=v")
    assert asked.returncode == 2
    assert "--yes" in asked.stderr
    results = plugin.data("kill", "-l", "app=v", "--yes")["results"]
    assert [(one["pod"]["name"], one["pod"]["node"]) for one in results] == [(f"v{n}", node) for n, node in enumerate(nodes)]
    assert all(one["result"]["released_bytes"] > 32 * MIB for one in results)


def test_one_name_that_is_not_there_keeps_nobody_else(plugin: Plugin, release: Release, namespace: str) -> None:
    start(release.cluster, namespace, "victim", restart="Never")
    done = plugin.run("kill", "victim", "nope")
    assert done.returncode == 5
    assert "REFERENCE_NOT_FOUND" in done.stdout
    release.cluster.wait("pod/victim", "jsonpath={.status.phase}=Failed", namespace)


def test_release_leaves_what_lives_alone(plugin: Plugin, release: Release, namespace: str) -> None:
    start(release.cluster, namespace, "alive")
    (one,) = plugin.data("release", "alive", code=4)["results"]
    assert one["error"]["reason"] == "NOT_DYING"
    assert release.cluster.pod("alive", namespace).restarts["hog"] == 0


def test_delete_takes_the_pod_away_and_releases_what_is_left_dying(plugin: Plugin, release: Release, namespace: str) -> None:
    manifest = hog("deaf", 64, release.cluster.image)
    manifest["spec"]["containers"][0]["command"][2] = _DEAF
    pod = release.cluster.run_pod(manifest, namespace)
    (one,) = plugin.data("delete", "deaf", "--now", "--timeout", "30s")["results"]
    assert one["pod"]["uid"] == pod.uid
    assert one["result"]["verdict"] in ("VERDICT_RELEASED", "VERDICT_EXITED")
    release.cluster.wait("pod/deaf", "delete", namespace)


def test_a_dry_delete_deletes_nothing(plugin: Plugin, release: Release, namespace: str) -> None:
    pod = start(release.cluster, namespace, "kept")
    (one,) = plugin.data("delete", "kept", "--dry-run")["results"]
    assert one["result"]["verdict"] == "VERDICT_VALIDATED"
    item = release.cluster.get("pod", "kept", namespace)
    assert (item["metadata"]["uid"], item["metadata"].get("deletionTimestamp")) == (pod.uid, None)


def test_reclaim_kills_no_more_than_are_needed(plugin: Plugin, release: Release, namespace: str) -> None:
    node = min(release.agents())
    for name, mib in (("small", 32), ("big", 96), ("other", 32)):
        start(release.cluster, namespace, name, mib, node=node, restart="Never", labels={"app": "r"} if name != "other" else {})
    found = plugin.data("reclaim", node, "64Mi", "-l", "app=r")
    assert found["summary"]["goal_met"] is True
    assert [one["target"]["pod"]["uid"] for one in found["candidates"]] == [release.cluster.pod("big", namespace).uid]
    assert {pod.name: pod.phase for pod in release.cluster.pods(namespace) if pod.name != "big"} == {"small": "Running", "other": "Running"}
    unmet = plugin.run("reclaim", node, "100Gi", "-l", "app=r")
    assert unmet.returncode == 8, unmet.stdout + unmet.stderr
    assert f"{namespace}/small" in unmet.stdout


def test_looking(plugin: Plugin, release: Release, namespace: str) -> None:
    pod = start(release.cluster, namespace, "victim", 64)
    (row,) = plugin.data("top", "pods")["pods"]
    assert (row["name"], row["node"], row["qos"]) == ("victim", pod.node, "BestEffort")
    assert row["reclaimable_bytes"] > 64 * MIB
    nodes = {one["name"]: one for one in plugin.data("top", "nodes")["nodes"]}
    assert set(nodes) == set(release.agents())
    assert nodes[pod.node]["reclaimable_bytes"]["BEST_EFFORT"] > 64 * MIB
    processes = plugin.data("ps", "victim", "-c", "hog")["processes"]
    assert [(one["container"], one["process"]["container_id"]) for one in processes] == [("hog", pod.containers["hog"])]
    sample = plugin.data("watch", pod.node, "--once")
    assert sample["sample"]["memory"]["total_bytes"] > 0
    assert plugin.run("top", "nodes", "no-such-node").returncode == 5


def test_doctor_looks_at_every_node(plugin: Plugin, release: Release) -> None:
    found = plugin.data("doctor")
    assert found["release"]["namespace"] == release.namespace
    assert {one["name"]: one["missing"] for one in found["nodes"]} == {name: [] for name in release.agents()}
    assert {one["agent"]["identity"]["name"] for one in found["nodes"]} == set(release.agents())


def test_a_node_without_an_agent_is_told_beside_the_others(plugin: Plugin, release: Release) -> None:
    nodes = sorted(release.agents())
    if len(nodes) < 2:
        pytest.skip("needs two nodes")
    away, name = nodes[-1], release.full_name
    # As a taint that the agents did not tolerate, or a nodeSelector.
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [away]}]}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    patch = ["patch", f"daemonset/{name}", "-n", release.namespace, "--type=merge", "-p"]
    release.cluster.kubectl(*patch, json.dumps({"spec": {"template": {"spec": {"affinity": affinity}}}}))
    try:
        until(lambda: away not in release.agents(), "the agent to be taken away", 90)
        release.await_agents()
        done = plugin.run("doctor")
        assert done.returncode == 6, done.stdout + done.stderr
        states = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith(tuple(nodes))}
        assert states.pop(away) == "missing"
        assert "missing" not in states.values()
        assert f"no agent on node {away}" in done.stdout
        looked = plugin.run("top", "nodes")
        assert looked.returncode == 6
        assert all(node in looked.stdout for node in nodes)
    finally:
        release.cluster.kubectl(*patch, json.dumps({"spec": {"template": {"spec": {"affinity": None}}}}))
        until(lambda: away in release.agents(), "the agent to come back", 90)
        release.await_agents()


def test_who_may_not_is_told_what_to_ask_for(release: Release, namespace: str, tmp_path: Path) -> None:
    start(release.cluster, namespace, "victim")
    with accounts(release, namespace):
        mine = Plugin(release, namespace, kubeconfig_of(release, CALLER, namespace, tmp_path))
        done = mine.run("delete", "victim", "--now")
        assert done.returncode == 4, done.stdout + done.stderr
        assert 'cannot delete resource "pods"' in done.stdout
        assert release.cluster.pod("victim", namespace).phase == "Running"
        assert mine.run("kill", "victim").returncode == 0
