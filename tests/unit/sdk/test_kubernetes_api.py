"""Requests to an API server: pages, refusals, what is tried again and what never is. And the resolver on top of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mrelease import NodeRef, Pod
from mrelease.errors import (
    NoAgent,
    OrchestratorDenied,
    OrchestratorUnavailable,
    ReferenceAmbiguous,
    ReferenceNotFound,
    ResolutionError,
)
from mrelease.resolvers.kubernetes import Kubernetes, PodObject
from mrelease.resolvers.kubernetes._agents import agents_of
from mrelease.resolvers.kubernetes._api import Api, Conflict
from mrelease.resolvers.kubernetes._login import Choice, log_in
from support.kube_api import FakeApi, fake_api, logged_in
from support.pki import Pki

POD: dict[str, Any] = {
    "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
    "spec": {"nodeName": "n1"},
    "status": {"phase": "Running", "containerStatuses": [{"name": "c", "containerID": "containerd://abc", "state": {"running": {}}}]},
}
NODE = {"metadata": {"name": "n1"}, "status": {"nodeInfo": {"bootID": "boot-1"}}}
SERVICES = "/api/v1/namespaces/mrelease/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/mrelease/endpointslices"
SECRET = "/api/v1/namespaces/mrelease/secrets/mr-client-mrelease-admin"


@pytest.fixture
def fake() -> Generator[FakeApi]:
    with fake_api() as made:
        yield made


@pytest.fixture
def api(fake: FakeApi, tmp_path: Path) -> Generator[Api]:
    with logged_in(fake, tmp_path) as made:
        yield made


def soon() -> float:
    return time.monotonic() + 10


def service(name: str = "mr", namespace: str = "mrelease", **annotations: str) -> dict[str, Any]:
    known = annotations or {"mrelease.dev/server-name": f"{name}.{namespace}.svc"}
    return {"metadata": {"namespace": namespace, "name": name, "annotations": known}}


def endpoint(node: str, pod: str, *, ready: bool | None = True, address: str = "127.0.0.1") -> dict[str, Any]:
    return {"addresses": [address], "nodeName": node, "targetRef": {"name": pod}, "conditions": {"ready": ready}}


def slices(*endpoints: dict[str, Any]) -> dict[str, Any]:
    return {"items": [{"metadata": {"uid": "s"}, "ports": [{"name": "grpc", "port": 7443}], "endpoints": list(endpoints)}]}


def test_a_list_is_read_page_after_page(api: Api, fake: FakeApi) -> None:
    fake.say("/x", {"metadata": {"continue": "next"}, "items": [{"a": 1}]})
    fake.say("/x", {"metadata": {"resourceVersion": "7"}, "items": [{"a": 2}]})
    assert api.list_versioned("/x", soon(), labelSelector="a=b") == ([{"a": 1}, {"a": 2}], "7")
    assert [(one.query.get("continue"), one.query["labelSelector"]) for one in fake.asked] == [(None, "a=b"), ("next", "a=b")]
    assert fake.asked[0].headers["Authorization"] == "Bearer t"


def test_a_server_that_has_too_much_to_do_is_asked_again(api: Api, fake: FakeApi) -> None:
    fake.say("/x", {"message": "slow down"}, status=429, Retry_After="0")
    fake.say("/x", {"a": 1})
    assert api.get("/x", soon()) == {"a": 1}


def test_a_delete_is_never_made_twice(api: Api, fake: FakeApi) -> None:
    fake.say("/x", {"message": "busy"}, status=503)
    with pytest.raises(OrchestratorUnavailable, match="busy"):
        api.delete("/x", soon(), {})
    assert len(fake.asked) == 1


def test_a_token_that_is_refused_is_read_again(fake: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("new")
    fake.say("/x", {}, status=401)
    fake.say("/x", {"a": 1})
    made = Api(log_in(Choice(kubeconfig=fake.kubeconfig(tmp_path, {"tokenFile": "token"}))))
    assert made.get("/x", soon()) == {"a": 1}
    made.close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, {}, OrchestratorDenied),
        (403, {"message": "you may not \x1b[2J"}, OrchestratorDenied),
        (404, {"message": "gone"}, ReferenceNotFound),
        (409, {"message": "the UID in the precondition does not match"}, Conflict),
        (500, b"<html>", OrchestratorUnavailable),
        (200, b"<html>", OrchestratorUnavailable),
        (200, b"[1]", OrchestratorUnavailable),
    ],
)
def test_what_answers_mean(status: int, body: Any, kind: type[ResolutionError], api: Api, fake: FakeApi) -> None:
    fake.say("/x", body, status=status)
    with pytest.raises(kind) as caught:
        api.get("/x", soon())
    assert caught.value.remedy
    assert "\x1b" not in str(caught.value)


def test_no_server_and_no_time(fake: FakeApi, tmp_path: Path) -> None:
    gone = Api(log_in(Choice(kubeconfig=FakeApi("http://127.0.0.1:1").kubeconfig(tmp_path))))
    with pytest.raises(OrchestratorUnavailable, match="cannot be asked"):
        gone.get("/x", soon())
    with pytest.raises(OrchestratorUnavailable, match="timed out"):
        Api(log_in(Choice(kubeconfig=fake.kubeconfig(tmp_path)))).get("/x", time.monotonic() - 1)


@pytest.fixture
def cluster(fake: FakeApi, tmp_path: Path) -> Generator[Kubernetes]:
    fake.say("/api/v1/namespaces/ns/pods/p", POD)
    fake.say("/api/v1/nodes/n1", NODE)
    with Kubernetes(kubeconfig=fake.kubeconfig(tmp_path), tunnel=False) as made:
        yield made


def certificates(tmp_path: Path) -> dict[str, str]:
    pki = Pki.make(tmp_path / "pki")
    pair = pki.pair("client")
    parts = {"ca.crt": pki.ca, "tls.crt": pair.cert, "tls.key": pair.key}
    return {name: base64.b64encode(path.read_bytes()).decode() for name, path in parts.items()}


def test_a_pod_to_agent_target_and_precondition(cluster: Kubernetes, fake: FakeApi, tmp_path: Path) -> None:
    fake.say(SERVICES, {"items": [service(x="other"), service()]})
    fake.say(SLICES, slices(endpoint("n2", "agent-2"), endpoint("n1", "agent-1", address="fd00::1")))
    fake.say(SECRET, {"data": certificates(tmp_path)})
    (found,) = cluster.resolve("k8s://ns/p/c", 10)
    assert (found.node, found.target, found.expected, found.title) == ("n1", Pod("u", ("abc",)), NodeRef("n1", "boot-1"), "ns/p/c")
    agent = found.reach()
    assert agent.address == "[fd00::1]:7443"
    assert agent.tls is not None
    assert agent.tls.server_name == "mr.mrelease.svc"
    assert isinstance(agent.tls.key, bytes), "it is in memory alone"
    assert cluster.resolve("k8s://ns/p", 10)[0].target == Pod("u")


def test_no_installation_several_and_one_elsewhere(cluster: Kubernetes, fake: FakeApi) -> None:
    with pytest.raises(NoAgent, match="install the Helm chart"):
        cluster.release(soon())
    fake.say("/api/v1/services", {"items": [service(namespace="a"), service(namespace="b")]})
    with pytest.raises(ReferenceAmbiguous, match=r"a/mr, b/mr.*--agents"):
        cluster.release(soon())
    fake.answers["/api/v1/services"] = [(200, {"items": [service(namespace="a")]}, {})]
    assert cluster.release(soon()).server_name == "mr.a.svc"


def test_a_node_without_an_agent_is_the_problem_of_its_placement_alone(cluster: Kubernetes, fake: FakeApi, tmp_path: Path) -> None:
    other: dict[str, Any] = {**POD, "metadata": {"namespace": "ns", "name": "q", "uid": "v"}, "spec": {"nodeName": "n2"}}
    fake.say("/api/v1/namespaces/ns/pods", {"items": [other, POD]})
    fake.say("/api/v1/nodes/n2", {"metadata": {"name": "n2"}})
    fake.say(SERVICES, {"items": [service()]})
    fake.say(SLICES, slices(endpoint("n1", "agent-1")))
    fake.say(SECRET, {"data": certificates(tmp_path)})
    first, second = cluster.resolve("k8s://ns?selector=a", 10)
    assert (first.title, first.agent is not None, first.problem) == ("ns/p", True, None)
    assert (second.title, second.agent) == ("ns/q", None)
    with pytest.raises(NoAgent, match="no agent on node n2"):
        second.reach()


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, {}, NoAgent, "--caller"),
        (403, {"message": "no"}, OrchestratorDenied, "Role mr-caller"),
        (200, {"data": {"tls.crt": "?"}}, OrchestratorUnavailable, "has no ca.crt"),
    ],
)
def test_a_secret_that_cannot_be_used(status: int, body: Any, kind: type[Exception], said: str, cluster: Kubernetes, fake: FakeApi) -> None:
    fake.say(SERVICES, {"items": [service()]})
    fake.say(SECRET, body, status=status)
    with pytest.raises(kind, match=said):
        cluster.credentials(soon())


def test_of_two_agents_of_a_node_the_one_that_is_ready() -> None:
    found = agents_of(
        slices(endpoint("n1", "old", ready=True), endpoint("n1", "new", ready=False), endpoint("n2", "x", ready=None))["items"]
    )
    assert (found["n1"].pod, found["n2"].is_ready) == ("old", True)
    assert agents_of([{"ports": [{"name": "http", "port": 1}], "endpoints": [endpoint("n1", "x")]}]) == {}


def test_a_delete_says_which_pod_it_means(cluster: Kubernetes, fake: FakeApi) -> None:
    cluster.delete(PodObject.of(POD), soon(), grace_seconds=1)
    assert fake.asked[-1].method == "DELETE"
    body = fake.asked[-1].body
    assert b'"preconditions": {"uid": "u"}' in body
    assert b'"gracePeriodSeconds": 1' in body
