"""The resolver on a real cluster: from names of Kubernetes to the agent and the target, with the chart's rights alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e.cluster import Cluster, hog
from e2e.k8s.callers import CALLER, NOBODY, accounts, authority, kubeconfig_of, kubernetes, token
from e2e.k8s.release import Release
from mrelease import Client, Pod, errors
from mrelease.errors import NotPlaced, OrchestratorDenied, ReferenceNotFound
from mrelease.resolvers.kubernetes import Kubernetes, _login
from support.lab import until

pytestmark = pytest.mark.e2e
__all__ = ["kubernetes"]

MIB = 1 << 20


def start(cluster: Cluster, namespace: str, name: str, mib: int = 32, **more: Any) -> Any:
    return cluster.run_pod(hog(name, mib, cluster.image, **more), namespace)


def soon() -> float:
    return time.monotonic() + 30


def test_a_pod_by_its_name_is_killed_on_its_node_and_gives_its_memory_back(
    kubernetes: Kubernetes, release: Release, namespace: str
) -> None:
    pod = start(release.cluster, namespace, "victim", 64, restart="Never")
    (found,) = kubernetes.resolve(f"k8s://{namespace}/victim", 30)
    assert (found.node, found.expected.name, found.target) == (pod.node, pod.node, Pod(pod.uid))
    assert found.expected.boot_id
    with found.client() as node:
        result = node.kill_and_release(found.target, node=found.expected, timeout=30)
    assert result.is_released
    assert result.released_bytes > 64 * MIB
    assert result.node == found.expected, "the node that was meant has answered, in that boot"
    release.cluster.wait("pod/victim", "jsonpath={.status.phase}=Failed", namespace)


def test_one_container_of_a_pod(kubernetes: Kubernetes, release: Release, namespace: str) -> None:
    manifest = hog("two", 32, release.cluster.image)
    manifest["spec"]["containers"].append({**manifest["spec"]["containers"][0], "name": "other"})
    pod = release.cluster.run_pod(manifest, namespace)
    (found,) = kubernetes.resolve(f"k8s://{namespace}/two/other", 30)
    assert found.target == Pod(pod.uid, (pod.containers["other"],))
    with found.client() as node:
        assert node.kill_and_release(found.target, node=found.expected, timeout=30).is_released
    until(lambda: release.cluster.pod("two", namespace).restarts["other"] == 1, "the container to be started again", 60)
    assert release.cluster.pod("two", namespace).restarts["hog"] == 0
    with pytest.raises(ReferenceNotFound, match="no container nope"):
        kubernetes.resolve(f"k8s://{namespace}/two?container=nope", 30)


def test_a_workload_and_a_selector_name_all_of_their_pods(kubernetes: Kubernetes, release: Release, namespace: str) -> None:
    spec = hog("x", 16, release.cluster.image)["spec"]
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    release.cluster.apply(deployment, namespace=namespace)
    release.cluster.await_rollout("deployment/web", namespace)
    start(release.cluster, namespace, "other", 16)
    pods = {Pod(pod.uid): pod.node for pod in release.cluster.pods(namespace, "app=web")}
    for query in ("deployment=web", "selector=app%3Dweb", "selector=app+in+(web,x)"):
        found = kubernetes.resolve(f"k8s://{namespace}?{query}", 30)
        assert {placement.target: placement.node for placement in found} == pods
        assert [placement.problem for placement in found] == [None] * 3
    with pytest.raises(ReferenceNotFound):
        kubernetes.resolve(f"k8s://{namespace}?statefulset=web", 30)


def test_the_new_pod_of_the_same_name_never_dies_for_the_old_one(kubernetes: Kubernetes, release: Release, namespace: str) -> None:
    old = start(release.cluster, namespace, "same", node="node1" if release.cluster.is_local else "")
    (found,) = kubernetes.resolve(f"k8s://{namespace}/same", 30)
    release.cluster.kubectl("delete", "pod", "same", "-n", namespace)
    new = start(release.cluster, namespace, "same", node=old.node)
    assert new.uid != old.uid
    with found.client() as node, pytest.raises(errors.TargetNotFound):
        node.kill_and_release(found.target, node=found.expected)
    assert release.cluster.pod("same", namespace).containers == new.containers
    with pytest.raises(ReferenceNotFound, match="another one now"):
        kubernetes.resolve(f"k8s://{namespace}/same?uid={old.uid}", 30)
    (again,) = kubernetes.resolve(f"k8s://{namespace}/same?uid={new.uid}", 30)
    assert again.target == Pod(new.uid)
    # Nor is exactly the old one deleted by its name.
    gone = kubernetes.pods(namespace, soon())[0]
    release.cluster.kubectl("delete", "pod", "same", "-n", namespace)
    newest = start(release.cluster, namespace, "same", node=old.node)
    with pytest.raises(ReferenceNotFound):
        kubernetes.delete(gone, soon())
    assert release.cluster.pod("same", namespace).uid == newest.uid


def test_another_node_does_nothing(kubernetes: Kubernetes, release: Release, namespace: str) -> None:
    nodes = sorted(release.agents())
    if len(nodes) < 2:
        pytest.skip("needs two nodes")
    start(release.cluster, namespace, "victim", node=nodes[0])
    (found,) = kubernetes.resolve(f"k8s://{namespace}/victim", 30)
    agent = kubernetes.reach(nodes[1], soon())
    with Client(agent.address, tls=agent.tls) as wrong, pytest.raises(errors.NodeMismatch):
        wrong.kill_and_release(found.target, node=found.expected)


def test_a_pod_that_is_on_no_node(kubernetes: Kubernetes, release: Release, namespace: str) -> None:
    manifest = hog("nowhere", 16, release.cluster.image)
    manifest["spec"]["nodeSelector"] = {"no": "such-node"}
    release.cluster.apply(manifest, namespace=namespace)
    with pytest.raises(NotPlaced, match="not on a node yet"):
        kubernetes.resolve(f"k8s://{namespace}/nowhere", 30)


def test_the_charts_roles_are_all_that_it_needs(release: Release, namespace: str, tmp_path: Path) -> None:
    start(release.cluster, namespace, "victim", restart="Never")
    with accounts(release, namespace):
        mine, nobodys = (kubeconfig_of(release, account, namespace, tmp_path) for account in (CALLER, NOBODY))
        with Kubernetes(kubeconfig=mine, agents=release.namespace, watched=True) as allowed:
            (found,) = allowed.resolve(f"k8s://{namespace}/victim", 30)
            assert allowed.resolve(f"k8s://{namespace}?selector=!x", 30)[0].target == found.target
            with found.client() as node:
                assert node.kill_and_release(found.target, node=found.expected, timeout=30).is_released
            with pytest.raises(OrchestratorDenied, match="cannot delete resource"):
                allowed.delete(allowed.pods(namespace, soon())[0], soon())
        with Kubernetes(kubeconfig=mine, agents=release.namespace, caller="other") as other, pytest.raises(OrchestratorDenied) as caught:
            other.credentials(soon())
        assert f"{release.full_name}-client-other" in str(caught.value)
        with Kubernetes(kubeconfig=nobodys, agents=release.namespace) as nobody, pytest.raises(OrchestratorDenied, match="forbidden"):
            nobody.resolve(f"k8s://{namespace}/victim", 30)
        admin = str(release.cluster.kubeconfig)
        with (
            Kubernetes(kubeconfig=admin, agents=release.namespace, as_user=f"system:serviceaccount:{namespace}:{NOBODY}") as nobody,
            pytest.raises(OrchestratorDenied, match="forbidden"),
        ):
            nobody.release(soon())


def test_a_pod_of_the_cluster_needs_no_tunnel(release: Release, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not release.cluster.is_local:
        pytest.skip("reaches pods by their addresses: only with the cluster of tests/e2e/cluster/up")
    monkeypatch.setattr(_login, "_ACCOUNT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with Kubernetes(kubeconfig=str(release.cluster.kubeconfig), agents=release.namespace) as outside:
        server = urlsplit(outside.api.login.server)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", server.hostname or "")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    start(release.cluster, namespace, "victim")
    with accounts(release, namespace):
        # What kubelet puts into every pod. That this process is in none is what cannot be otherwise here.
        (tmp_path / "token").write_text(token(release, CALLER, namespace))
        (tmp_path / "ca.crt").write_bytes(authority(release))
        (tmp_path / "namespace").write_text(namespace)
        with Kubernetes(agents=release.namespace) as inside:
            assert inside.namespace == namespace
            (found,) = inside.resolve(f"k8s://{namespace}/victim", 30)
            assert found.reach().address == f"{release.agents()[found.node].address}:7443"
            with found.client() as node:
                assert node.get_node().identity == found.expected


def test_it_keeps_up_with_agents_that_move(release: Release) -> None:
    with Kubernetes(kubeconfig=str(release.cluster.kubeconfig), agents=release.namespace, watched=True) as kept:
        node, old = sorted(release.agents().items())[0]
        before = kept.reach(node, soon())
        assert kept.agents(soon())[node].pod == old.name
        release.cluster.kubectl("delete", "pod", old.name, "-n", release.namespace)
        release.await_agents()
        new = release.agents()[node]
        until(lambda: node in kept.agents(soon()) and kept.agents(soon())[node].pod == new.name, "the new agent to be known", 60)
        after = kept.reach(node, soon())
        assert after.address != before.address
        with Client(after.address, tls=after.tls) as client:
            assert client.get_node().identity.name == node


def test_an_agent_that_has_just_gone_is_said_so_and_found_again(kubernetes: Kubernetes, release: Release) -> None:
    node, old = sorted(release.agents().items())[-1]
    agent = kubernetes.reach(node, soon())
    release.cluster.kubectl("delete", "pod", old.name, "-n", release.namespace)
    release.await_agents()
    with Client(agent.address, tls=agent.tls, timeout=5) as client, pytest.raises(errors.AgentError) as caught:
        client.get_node()
    assert caught.value.nothing_signalled
    until(lambda: kubernetes.why(agent) is not None, "the reason to be known", 30)
    until(lambda: kubernetes.agents(soon())[node].pod != old.name, "the new agent to be listed", 60)
    again = kubernetes.reach(node, soon())
    with Client(again.address, tls=again.tls) as client:
        assert client.get_node().identity.name == node
