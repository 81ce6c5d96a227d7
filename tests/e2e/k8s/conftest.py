"""The chart, installed once for all tests here, in a namespace of their own; at the end it is uninstalled, and nothing may be left."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from typing import Any

import pytest

from e2e.cluster import Cluster
from e2e.k8s.release import ADMIN, TEAM, Release, find_helm
from e2e.k8s.traces import Traces

#: Common name of examples/memory_floor.py, which sees and kills in one namespace alone.
FLOOR = "floor"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a cluster."""
    for item in items:
        if "e2e/k8s" in str(item.path):
            item.add_marker(pytest.mark.e2e)


def values(team_namespace: str) -> dict[str, Any]:
    """What an administrator writes down: everybody's rights, and two callers who have some of them in one namespace alone."""
    rules = [
        {"name": "administrators", "callers": [{"cn": ADMIN}], "methods": ["*"]},
        {"name": "inside", "callers": [{"unix_uid": 0}], "methods": ["GetNode", "ListProcesses", "WatchMemory"]},
        {
            "name": "team",
            "callers": [{"cn": TEAM}],
            "methods": ["KillAndRelease", "Release", "ListProcesses"],
            "targets": {"namespaces": [team_namespace]},
        },
        {
            "name": "floor",
            "callers": [{"cn": FLOOR}],
            "methods": ["GetNode", "WatchMemory", "ListProcesses", "Reclaim"],
            "targets": {"namespaces": [team_namespace]},
        },
    ]
    return {"policy": {"version": 1, "rules": rules}, "tls": {"clients": [ADMIN, TEAM, FLOOR]}}


@pytest.fixture(scope="session")
def team_namespace(cluster: Cluster) -> Generator[str, None, None]:
    """The namespace in which the caller TEAM may kill."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def release(cluster: Cluster, team_namespace: str) -> Generator[Release, None, None]:
    """The chart as it is installed by most: with its own certificates, a policy, an audit log."""
    helm = find_helm()
    with cluster.namespace() as namespace:
        installed = Release(cluster, "mrelease", namespace, helm)
        installed.install(values(team_namespace))
        try:
            yield installed
        finally:
            traces = Traces.of(installed)
            installed.uninstall()
            try:
                traces.await_nothing()
            finally:
                remove_state(installed)


@pytest.fixture
def victim_node(release: Release) -> str:
    """The node of victims whose test does not care which."""
    return min(release.agents())


def remove_state(release: Release) -> None:
    """Audit log and state are the administrator's, and outlive the release: here they go with the test."""
    if release.cluster.is_local:
        for node in release.cluster.get("nodes")["items"]:
            shutil.rmtree(release.cluster.node(node["metadata"]["name"]).path(release.host_path), ignore_errors=True)
