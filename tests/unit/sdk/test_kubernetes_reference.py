"""Which pods a reference to Kubernetes means."""

from __future__ import annotations

from typing import Any

import pytest

from mrelease.errors import InvalidReference, NotPlaced, ReferenceNotFound
from mrelease.resolvers.kubernetes import PodObject, Wanted, workload

ID = "0123456789abcdef" * 4


def pod(name: str = "web-1", *, node: str = "n1", phase: str = "Running", **metadata: Any) -> PodObject:
    statuses: list[dict[str, Any]] = [
        {"name": "main", "containerID": f"containerd://{ID}", "state": {"running": {}}},
        {
            "name": "crashing",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"containerID": "cri-o://abc"}},
        },
        {"name": "new", "state": {"waiting": {"reason": "ContainerCreating"}}},
    ]
    spec = {"nodeName": node} if node else {}
    item = {"metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}", **metadata}, "spec": spec}
    return PodObject.of({**item, "status": {"phase": phase, "containerStatuses": statuses}})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("k8s://ns/web-1", Wanted("ns", pod="web-1")),
        ("k8s://ns/web-1/main", Wanted("ns", pod="web-1", container="main")),
        ("k8s://ns/web-1?container=main&uid=u", Wanted("ns", pod="web-1", container="main", uid="u")),
        ("k8s://ns?selector=app%3Dweb%2Ctier%21%3Dx", Wanted("ns", selector="app=web,tier!=x")),
        ("k8s://ns?selector=app=web", Wanted("ns", selector="app=web")),
        ("k8s://ns?deployment=web&container=main", Wanted("ns", workload=("deployment", "web"), container="main")),
        ("k8s://ns/web-1?context=prod", Wanted("ns", pod="web-1", context="prod")),
    ],
)
def test_what_references_say(text: str, wanted: Wanted) -> None:
    assert Wanted.of(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("slurm://1234", "k8s://ns", "k8s://ns/p/c/x", "k8s://ns/p?selector=a", "k8s://ns?selector=", "k8s://ns?selector=a&job=b"),
        *("k8s://ns/p/c?container=d", "k8s://ns?selector=a&uid=u", "k8s://ns/p?force=true", "k8s://ns/../x", "k8s://ns/P"),
        *("k8s://NS/p", "k8s://ns/p%2Fexec", "k8s://ns/p?container=", "k8s://ns?job=a&deployment=b"),
    ],
)
def test_what_is_not_clear_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        Wanted.of(text)


def test_container_ids_lose_the_runtimes_name_and_a_dead_one_has_that_of_its_last_life() -> None:
    assert {each.name: each.id for each in pod().containers} == {"main": ID, "crashing": "abc", "new": ""}


def test_a_pod_that_kubelet_made_from_a_file_has_kubelets_uid() -> None:
    assert pod(annotations={"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h"}).uid == "h"
    assert pod(annotations={"kubernetes.io/config.hash": "h"}).uid == "uid-web-1", "anybody may annotate a pod"


def test_pods_of_a_workload_by_their_owners_alone() -> None:
    mine = pod("web-abc-1", labels={"pod-template-hash": "abc"}, ownerReferences=[{"kind": "ReplicaSet", "name": "web-abc"}])
    other = pod("web-x-abc-1", labels={"pod-template-hash": "abc"}, ownerReferences=[{"kind": "ReplicaSet", "name": "web-x-abc"}])
    job = pod("web-j", ownerReferences=[{"kind": "Job", "name": "web"}])
    everyone = [mine, other, job]
    assert Wanted("ns", workload=("deployment", "web")).of_these(everyone) == [mine]
    assert Wanted("ns", workload=("replicaset", "web-x-abc")).of_these(everyone) == [other]
    assert Wanted("ns", workload=("job", "web")).of_these(everyone) == [job]
    with pytest.raises(ReferenceNotFound, match="no pods of statefulset web"):
        Wanted("ns", workload=("statefulset", "web")).of_these(everyone)


def test_a_new_pod_of_the_same_name_is_not_the_one_that_was_meant() -> None:
    assert Wanted("ns", pod="web-1", uid="uid-web-1").of_these([pod()])
    with pytest.raises(ReferenceNotFound, match="another one now"):
        Wanted("ns", pod="web-1", uid="older").of_these([pod()])


def test_what_is_on_no_node_or_finished_is_said_so() -> None:
    with pytest.raises(NotPlaced, match="not on a node yet"):
        Wanted("ns", pod="web-1").of_these([pod(node="")])
    with pytest.raises(NotPlaced, match="finished"):
        Wanted("ns", pod="web-1").of_these([pod(phase="Succeeded")])
    # Its processes may have left memory behind.
    dying = pod(phase="Failed", deletionTimestamp="2026-01-01T00:00:00Z")
    assert Wanted("ns", pod="web-1").of_these([dying]) == [dying]
    assert Wanted("ns", selector="a").of_these([pod(node=""), dying]) == [dying]


def test_a_container_that_no_pod_has_is_not_found() -> None:
    with pytest.raises(ReferenceNotFound, match="no container side"):
        Wanted("ns", pod="web-1", container="side").of_these([pod()])


@pytest.mark.parametrize(("kind", "full"), [("deploy", "deployment"), ("sts", "statefulset"), ("DS", "daemonset"), ("jobs", "job")])
def test_kinds_as_kubectl_abbreviates_them(kind: str, full: str) -> None:
    assert workload(kind, "x") == (full, "x")


def test_other_kinds_are_none() -> None:
    assert workload("svc", "x") is None
