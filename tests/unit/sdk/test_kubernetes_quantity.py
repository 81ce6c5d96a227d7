"""What the scheduler counts with: quantities as bytes, and what a pod asks of a node's memory."""

from __future__ import annotations

from typing import Any

import pytest

from mrelease.resolvers.kubernetes import NodeObject, PodObject
from mrelease.resolvers.kubernetes._quantity import bytes_of, memory_request

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("128Mi", 128 * MIB), ("1Gi", 1 << 30), ("1.5Gi", 3 << 29), ("64Ki", 64 << 10), ("1Ei", 1 << 60)),
        *(("128", 128), (128, 128), ("1k", 1000), ("1M", 10**6), ("1.5G", 1_500_000_000), ("1e9", 10**9), ("12E2", 1200), ("1E", 10**18)),
        *(("128974848000m", 128_974_848), ("1m", 1), ("1500u", 1), ("0", 0), ("-1Mi", -MIB), (".5Ki", 512), ("5.", 5)),
        *(("", 0), ("x", 0), ("1KI", 0), ("1 Mi", 0), ("1e999", 0), (None, 0), ("1" * 200, 0)),
    ],
)
def test_quantities(text: object, expected: int) -> None:
    assert bytes_of(text) == expected


def wants(memory: str, **more: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"memory": memory, "cpu": "1"}}, **more}


SPECS: list[tuple[dict[str, Any], int]] = [
    ({}, 0),
    ({"containers": [{}]}, 0),
    ({"containers": [{"resources": {"limits": {"memory": "1Gi"}}}]}, 0),
    ({"containers": [wants("100Mi"), wants("28Mi")]}, 128),
    ({"containers": [wants("100Mi")], "overhead": {"memory": "20Mi"}}, 120),
    ({"containers": [wants("100Mi")], "initContainers": [wants("60Mi"), wants("70Mi")]}, 100),
    ({"containers": [wants("100Mi")], "initContainers": [wants("300Mi")]}, 300),
    ({"containers": [wants("100Mi")], "initContainers": [wants("30Mi", restartPolicy="Always"), wants("60Mi")]}, 130),
    ({"containers": [wants("100Mi")], "initContainers": [wants("30Mi", restartPolicy="Always"), wants("90Mi")]}, 130),
    ({"containers": [wants("10Mi")], "initContainers": [wants("30Mi", restartPolicy="Always"), wants("90Mi")]}, 120),
    ({"containers": [wants("10Mi")], "initContainers": [wants("90Mi"), wants("30Mi", restartPolicy="Always")]}, 90),
    ({"containers": [wants("100Mi")], **wants("256Mi")}, 256),
]


@pytest.mark.parametrize(("spec", "mib"), SPECS)
def test_what_a_pod_asks_for(spec: dict[str, Any], mib: int) -> None:
    assert memory_request(spec) == mib * MIB


def test_pods_and_nodes_say_it() -> None:
    metadata = {"namespace": "ns", "name": "x", "uid": "u"}
    pod = PodObject.of({"metadata": metadata, "spec": {"containers": [wants("64Mi")]}})
    assert (pod.memory_request_bytes, pod.is_static) == (64 * MIB, False)
    mirror = {**metadata, "annotations": {"kubernetes.io/config.mirror": "h", "kubernetes.io/config.hash": "h"}}
    assert PodObject.of({"metadata": mirror, "spec": {}}).is_static
    assert NodeObject.of({"metadata": {"name": "n"}, "status": {"allocatable": {"memory": "1Gi"}}}).allocatable_bytes == 1 << 30
    assert NodeObject.of({"metadata": {"name": "n"}}).allocatable_bytes == 0
