"""Where the agents are, for many who ask at once and for one who keeps up: how often the API server is asked, a scripted one here."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mrelease.errors import OrchestratorDenied, OrchestratorUnavailable
from mrelease.resolvers.kubernetes import Kubernetes
from mrelease.resolvers.kubernetes import _agents as agents_module
from mrelease.resolvers.kubernetes._agents import Directory, Release
from mrelease.resolvers.kubernetes._api import Api
from support.kube_api import FakeApi, fake_api, logged_in
from support.lab import until

SLICES = "/apis/discovery.k8s.io/v1/namespaces/mrelease/endpointslices"
NODES = "/api/v1/nodes"
RELEASE = Release("mrelease", "mr", "mr.mrelease.svc")


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


def one_slice(uid: str, *agents: tuple[str, str]) -> dict[str, Any]:
    endpoints = [{"nodeName": node, "addresses": ["192.0.2.1"], "targetRef": {"name": pod}} for node, pod in agents]
    metadata = {"uid": uid, "resourceVersion": "5"}
    return {"metadata": metadata, "ports": [{"name": "grpc", "port": 7443}], "endpoints": endpoints}


def listed(*slices: dict[str, Any]) -> dict[str, Any]:
    return {"items": list(slices), "metadata": {"resourceVersion": "5"}}


def lists(fake: FakeApi, path: str = SLICES) -> int:
    return sum(each.path == path and "watch" not in each.query for each in list(fake.asked))


def test_of_many_that_ask_at_once_one_does(api: Api, fake: FakeApi) -> None:
    fake.say(SLICES, listed(one_slice("a", ("n1", "x")), one_slice("b", ("n2", "y"))))
    directory = Directory(api, RELEASE, watched=False)
    everybody = threading.Barrier(16)

    def ask(_: int) -> list[str]:
        everybody.wait()
        return sorted(agent.pod for agent in directory.agents(soon()).values())

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(ask, range(16))) == [["x", "y"]] * 16
    assert lists(fake) == 1


def test_a_refusal_is_for_who_asked_and_the_next_one_asks_again(api: Api, fake: FakeApi) -> None:
    fake.say(SLICES, {"message": "no"}, status=403)
    fake.say(SLICES, listed(one_slice("a", ("n1", "x"))))
    directory = Directory(api, RELEASE, watched=False)
    with pytest.raises(OrchestratorDenied):
        directory.agents(soon())
    assert set(directory.agents(soon())) == {"n1"}


def test_who_waits_for_anothers_answer_waits_no_longer_than_its_own_deadline(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> tuple[list[Any], str]:
        asked.set()
        assert answered.wait(10)
        return [one_slice("a", ("n1", "x"))], "5"

    monkeypatch.setattr(Api, "list_versioned", slow)
    directory = Directory(api, RELEASE, watched=False)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(directory.agents, soon())
        assert asked.wait(10)
        with pytest.raises(OrchestratorUnavailable, match="not known in time"):
            directory.agents(time.monotonic() + 0.01)
        answered.set()
        assert set(first.result()) == {"n1"}


def test_what_is_watched_is_listed_once_and_one_slice_that_changes_moves_its_agents_alone(
    api: Api, monkeypatch: pytest.MonkeyPatch, fake: FakeApi
) -> None:
    fake.say(SLICES, listed(one_slice("a", ("n1", "x")), one_slice("b", ("n2", "y"), ("n3", "z"))))
    more, seen = threading.Event(), threading.Event()

    def watch(_self: Api, _path: str, version: str, *_: Any, **__: Any) -> Generator[tuple[str, dict[str, Any]]]:
        assert version == "5"
        more.wait(10)
        yield "MODIFIED", one_slice("b", ("n2", "moved"))
        yield "DELETED", one_slice("a")
        seen.set()
        done.wait(10)

    done = threading.Event()
    # The scripted server answers whole requests, and has no watch.
    monkeypatch.setattr(Api, "watch", watch)
    directory = Directory(api, RELEASE, watched=True)
    try:
        for _ in range(100):
            assert set(directory.agents(soon())) == {"n1", "n2", "n3"}
        more.set()
        assert seen.wait(10)
        assert {node: agent.pod for node, agent in directory.agents(soon()).items()} == {"n2": "moved"}
        assert lists(fake) == 1
    finally:
        done.set()
        directory.close()


def test_a_watch_that_ends_badly_is_begun_again_from_a_new_list(api: Api, monkeypatch: pytest.MonkeyPatch, fake: FakeApi) -> None:
    fake.say(SLICES, listed(one_slice("a", ("n1", "old"))))
    fake.say(SLICES, listed(one_slice("a", ("n1", "new"))))
    monkeypatch.setattr(agents_module, "_PAUSE", 0.01)
    done, begun = threading.Event(), threading.Semaphore(0)

    def watch(*_: Any, **__: Any) -> Generator[tuple[str, dict[str, Any]]]:
        begun.release()
        if lists(fake) == 1:
            yield "ERROR", {"code": 410, "message": "too old resource version"}
        done.wait(10)

    monkeypatch.setattr(Api, "watch", watch)
    directory = Directory(api, RELEASE, watched=True)
    try:
        assert directory.agents(soon())["n1"].pod == "old"
        until(lambda: directory.agents(soon())["n1"].pod == "new", "the new list")
        assert begun.acquire(timeout=10)
        assert begun.acquire(timeout=10)
    finally:
        done.set()
        directory.close()


def node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"nodeInfo": {"bootID": f"boot of {name}"}}}


def test_some_nodes_are_asked_for_one_by_one_and_many_by_pages(fake: FakeApi, tmp_path: Path) -> None:
    names = [f"n{k}" for k in range(100)]
    for name in names[:3]:
        fake.say(f"{NODES}/{name}", node(name))
    fake.say(NODES, {"items": [node(name) for name in names[:50]], "metadata": {"continue": "more"}})
    fake.say(NODES, {"items": [node(name) for name in names[50:]], "metadata": {}})
    with Kubernetes(kubeconfig=fake.kubeconfig(tmp_path)) as kube:
        assert set(kube.nodes([*names[:3], "gone"], soon())) == set(names[:3])
        assert lists(fake, NODES) == 0
        found = kube.nodes([*names[40:], "gone"], soon())
        assert {each.name: each.boot_id for each in found.values()} == {name: f"boot of {name}" for name in names[40:]}
        assert lists(fake, NODES) == 2
