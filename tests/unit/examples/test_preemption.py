"""Whom examples/preemption.py chooses. tests/e2e/k8s/test_examples.py runs it on a cluster."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrelease.resolvers.kubernetes import PodObject
from support.markdown import ROOT

_spec = importlib.util.spec_from_file_location("preemption", ROOT / "examples" / "preemption.py")
assert _spec is not None
assert _spec.loader is not None
preemption: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(preemption)


def pod(name: str, mib: int, priority: int = 0, qos: str = "Burstable", **more: Any) -> PodObject:
    containers = [{"name": "c", "resources": {"requests": {"memory": f"{mib}Mi"}}}]
    metadata = {"namespace": more.pop("namespace", "ns"), "name": name, "uid": name, **more}
    return PodObject.of({"metadata": metadata, "spec": {"containers": containers, "priority": priority}, "status": {"qosClass": qos}})


def names(pods: list[PodObject]) -> list[str]:
    return [each.name for each in pods]


@pytest.mark.parametrize(
    ("pods", "missing", "chosen"),
    [
        ([pod("a", 100), pod("b", 200)], 50, ["b"]),
        ([pod("a", 100, priority=-1), pod("b", 200)], 50, ["a"]),
        ([pod("a", 100, qos="Guaranteed"), pod("b", 60)], 50, ["b"]),
        ([pod("a", 100), pod("b", 200)], 300, ["b", "a"]),
        ([pod("a", 100), pod("b", 200)], 301, []),
        ([], 1, []),
        # The least important one is not enough, and superfluous where the next one is taken.
        ([pod("a", 100, priority=-2), pod("b", 200, priority=-1)], 150, ["b"]),
        ([pod("a", 100, priority=-3), pod("b", 50, priority=-2), pod("c", 60, priority=-1)], 155, ["a", "c"]),
    ],
)
def test_as_few_as_needed_of_the_least_important(pods: list[PodObject], missing: int, chosen: list[str]) -> None:
    assert names(preemption.fewest(pods, missing << 20)) == chosen


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(-3, 0)), max_size=8), st.integers(1, 80))
def test_the_chosen_are_enough_and_none_of_them_is_superfluous(made: list[tuple[int, int]], missing: int) -> None:
    pods = [pod(str(k), mib, priority) for k, (mib, priority) in enumerate(made)]
    chosen = preemption.fewest(pods, missing << 20)
    sizes = [each.memory_request_bytes >> 20 for each in chosen]
    if sum(mib for mib, _ in made) < missing:
        assert chosen == []
        return
    assert sum(sizes) >= missing
    assert all(sum(sizes) - size < missing for size in sizes)
    # Nobody dies for whom a less important one alone would do.
    worst = max(each.priority for each in chosen)
    less = [mib for mib, priority in made if priority < worst]
    assert all(sum(some) < missing for count in range(len(less) + 1) for some in itertools.combinations(less, count))


def test_who_never_dies() -> None:
    important = pod("important", 100, priority=10)
    assert preemption.may_die(pod("a", 1), important, "ns")
    for spared in (
        pod("a", 1, namespace="other"),
        pod("a", 1, priority=10),
        pod("a", 0),
        pod("a", 1, ownerReferences=[{"kind": "DaemonSet", "name": "d"}]),
        pod("a", 1, annotations={"kubernetes.io/config.mirror": "x"}),
    ):
        assert not preemption.may_die(spared, important, "ns")
