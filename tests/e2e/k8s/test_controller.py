"""The controller: what terminates and keeps its memory is released by itself; nothing else is touched."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Generator

import pytest

from e2e.cluster import Cluster, LocalNode, Pod, hog
from e2e.k8s.conftest import remove_state
from e2e.k8s.controlled import CALLER, Controlled, await_released, delete
from e2e.k8s.hanging import GO, LOCK, await_d_state, hanging_pod
from e2e.k8s.release import Release, find_helm
from e2e.k8s.victims import PYTHON, SIZE, pod
from support.lab import MIB, until

#: Holds its memory, and does not end when it is asked to.
_DEAF = f"""
import pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
memory = b"x" * ({SIZE} << 20)
pathlib.Path("/tmp/full").touch()
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def controlled(cluster: Cluster) -> Generator[Controlled]:
    """One installation for all tests here, beside that of the others."""
    with contextlib.ExitStack() as namespaces:
        own, allowed, killing, dry = (namespaces.enter_context(cluster.namespace()) for _ in range(4))
        cluster.kubectl("annotate", "namespace", dry, "mrelease.dev/release=dry-run")
        release = Release(cluster, "controlled", own, find_helm())
        release.install(Controlled.values(allowed, killing, dry))
        made = Controlled(release, allowed, killing, dry)
        try:
            made.leader()
            yield made
        finally:
            release.uninstall()
            remove_state(release)


@pytest.fixture
def node(controlled: Controlled) -> LocalNode:
    return controlled.cluster.node(min(controlled.release.agents()))


def deaf(controlled: Controlled, node: LocalNode, name: str, namespace: str, grace: int) -> Pod:
    """A pod that ignores SIGTERM, for so many seconds."""
    image = controlled.cluster.image
    made = pod(name, image, node.name, lambda _: {"terminationGracePeriodSeconds": grace})
    (container,) = made["spec"]["containers"]
    container["command"] = [PYTHON, "-Sc", _DEAF]
    return controlled.cluster.run_pod(made, namespace)


def test_a_pod_in_d_state_is_released_by_itself_and_those_within_their_grace_are_not_touched(
    controlled: Controlled, node: LocalNode
) -> None:
    cluster = controlled.cluster
    healthy = [deaf(controlled, node, f"healthy-{number}", controlled.allowed, 600) for number in range(4)]
    runs = cluster.run_pod(hog("runs", SIZE, cluster.image, node=node.name), controlled.allowed)
    pids = {each.uid: node.pids(each.containers["hog"]) for each in healthy}
    for each in healthy:
        delete(cluster, each)
    with hanging_pod(cluster, node, controlled.allowed) as victim:
        delete(cluster, victim)
        pid = await_d_state(node, victim.containers["hog"])
        text = controlled.await_event(victim, "MemoryReleased")
        assert "in D state" in text, text
        assert text.startswith("released 1"), text
        assert node.charge(victim.containers["hog"]) < SIZE * MIB / 4
        assert node.pids(victim.containers["hog"]) == [pid]
        (intent,) = [record for record in controlled.records(victim) if record["event"] == "intent"]
        assert CALLER in str(intent["caller"])
        assert "is Terminating past its grace period" in str(intent)
    for each in (*healthy, runs):
        assert controlled.records(each) == []
        assert controlled.events(each) == []
    for each in healthy:
        assert node.pids(each.containers["hog"]) == pids[each.uid]
        assert node.charge(each.containers["hog"]) >= SIZE * MIB
        cluster.kubectl("delete", "pod", each.name, "-n", each.namespace, "--grace-period=0", "--force")


def test_nothing_is_done_where_it_may_not_act_and_a_dry_run_only_says_what_it_would_do(
    controlled: Controlled, node: LocalNode, namespace: str
) -> None:
    cluster = controlled.cluster
    with hanging_pod(cluster, node, namespace) as foreign, hanging_pod(cluster, node, controlled.dry) as victim:
        for each in (foreign, victim):
            delete(cluster, each)
            await_d_state(node, each.containers["hog"])
        assert controlled.await_event(victim, "MemoryWouldBeReleased").startswith("dry run: would release 1")
        for each in (foreign, victim):
            assert node.charge(each.containers["hog"]) >= SIZE * MIB
            assert [record for record in controlled.records(each) if record["event"] == "intent"] == []
        assert controlled.events(foreign) == []
        # What the namespace says from now on counts from now on.
        cluster.kubectl("annotate", "namespace", controlled.dry, "--overwrite", "mrelease.dev/release=release")
        await_released(node, victim.containers["hog"], SIZE // 4)
        cluster.kubectl("annotate", "namespace", controlled.dry, "--overwrite", "mrelease.dev/release=dry-run")
        assert node.charge(foreign.containers["hog"]) >= SIZE * MIB


def test_a_controller_that_is_killed_in_mid_operation_asks_for_the_same_and_nothing_is_done_twice(
    controlled: Controlled, node: LocalNode
) -> None:
    cluster = controlled.cluster
    with hanging_pod(cluster, node, controlled.allowed, script=LOCK) as victim:
        container = victim.containers["hog"]
        cluster.exec(victim, PYTHON, "-Sc", f"open({GO!r}, 'w')")
        _await_lock(*node.pids(container))
        delete(cluster, victim)

        def intents() -> list[str]:
            return [str(record.get("request_id")) for record in controlled.records(victim) if record["event"] == "intent"]

        until(lambda: bool(intents()), "the controller to have asked for it", 90)
        leader = controlled.leader()
        (running,) = cluster.node(leader.node).pids(leader.containers["controller"])
        os.kill(running, signal.SIGKILL)
        text = controlled.await_event(victim, "MemoryHeld")
        assert re.match(r"0\.00 of 1\d\d MiB released; process \d+ \(python", text), text
        assert "lock of its address space" in text
        # Another one began while the first was waiting, or after it: each request was made to the agent once.
        until(lambda: len(intents()) > 1, "the next controller to try again", 90)
        asked = intents()
        assert len(set(asked)) == len(asked)
        assert asked[0] == f"controller:release:{victim.uid}:0"
    controlled.release.await_gone(victim)


def _await_lock(pid: int) -> None:
    def in_d_state() -> bool:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] == "D":
                        return True
        return False

    until(in_d_state, f"a thread of process {pid} to wait with mmap_lock held")


def test_one_leads_and_when_it_ends_the_other_does(controlled: Controlled) -> None:
    controlled.await_rollout()
    cluster, before = controlled.cluster, controlled.leader()

    def leads() -> dict[str, float]:
        return controlled.metric("mrelease_controller_leader")

    # One that has just been started again holds its lease a moment before it knows.
    until(lambda: sorted(leads().values()) == [0.0, 1.0], "one of two to say that it leads", 60)
    assert leads()[before.name] == 1
    cluster.kubectl("delete", "pod", before.name, "-n", controlled.release.namespace, "--wait=false")
    after = controlled.leader()
    assert after.name != before.name
    until(lambda: leads().get(after.name) == 1, "the other one to say that it leads", 60)
    controlled.await_rollout()


def test_without_the_api_server_nothing_is_done_and_after_it_all_of_it(controlled: Controlled, node: LocalNode) -> None:
    controlled.await_rollout()
    cluster, pods = controlled.cluster, list(controlled.pods().values())
    leader = controlled.leader()
    with contextlib.ExitStack() as blocks:
        for each in pods:
            where = cluster.node(each.node)
            rule = ["FORWARD", "-s", each.address, "-p", "tcp", "--dport", "6443", "-j", "DROP"]
            where.run("iptables", "-I", *rule)
            blocks.callback(where.run, "iptables", "-D", *rule)
        until(lambda: controlled.log(leader.name)[-1]["msg"] == "not leading" or _lost(controlled, leader), "the leader to stop acting", 60)
        victim = blocks.enter_context(hanging_pod(cluster, node, controlled.allowed))
        delete(cluster, victim)
        await_d_state(node, victim.containers["hog"])
        assert controlled.records(victim) == []
        stays = blocks.pop_all()
    with contextlib.ExitStack() as rest:
        rest.push(stays)
        for each in pods:
            where = cluster.node(each.node)
            where.run("iptables", "-I", "FORWARD", "-s", each.address, "-p", "tcp", "--dport", "6443", "-j", "ACCEPT")
            rest.callback(where.run, "iptables", "-D", "FORWARD", "-s", each.address, "-p", "tcp", "--dport", "6443", "-j", "ACCEPT")
        await_released(node, victim.containers["hog"], SIZE // 4)
        controlled.await_event(victim, "MemoryReleased")


def _lost(controlled: Controlled, leader: Pod) -> bool:
    said = [line["msg"] for line in controlled.log(leader.name)]
    return "not leading" in said[len(said) - said[::-1].index("leading") :] if "leading" in said else False


def test_what_ignores_its_end_is_killed_only_where_that_is_allowed(controlled: Controlled, node: LocalNode) -> None:
    cluster = controlled.cluster
    victim = deaf(controlled, node, "deaf", controlled.killing, 1)
    spared = deaf(controlled, node, "deaf", controlled.allowed, 1)
    kubelet = int(node.run("pgrep", "-x", "kubelet").split()[0])
    node.run("kill", "-STOP", str(kubelet))
    try:
        (pid,) = node.pids(spared.containers["hog"])
        for each in (spared, victim):
            delete(cluster, each)
        assert "killed 1 that still ran past the grace period" in controlled.await_event(victim, "Killed")
        assert "Nothing was done" in controlled.await_event(spared, "NotKilled")
        assert node.pids(spared.containers["hog"]) == [pid]
        assert node.charge(spared.containers["hog"]) >= SIZE * MIB
    finally:
        node.run("kill", "-CONT", str(kubelet))
    for each in (victim, spared):
        controlled.release.await_gone(each)
