"""What the examples change: how long a pod pends for memory, and how long a node stays below its floor, with and without them.

    PYTHONPATH=tests .venv/bin/python -m e2e.k8s.bench_examples --rounds 3

On the cluster of this machine (`make e2e-up`), as root; it writes docs/examples-performance.json, and its section of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from bench import page
from bench.machine import describe
from e2e.cluster import Cluster, LocalNode, Pod, hog, start
from e2e.k8s.conftest import FLOOR, remove_state, values
from e2e.k8s.examples_report import ENDS, HANGS, IGNORES, KEEPER, NOBODY, WITH, WITHOUT
from e2e.k8s.hanging import hanging_pod
from e2e.k8s.release import Release, find_helm
from e2e.k8s.scarcity import MIB, Example, free_mib, memory_floor, pod, preemption, priorities, wants
from mrelease.demo.budget import meminfo
from mrelease.resolvers.kubernetes import Kubernetes
from support import lab
from support.lab import until

_PAUSE = 0.02


def main() -> int:
    """Measure, write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each (3)")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which a pod that pends is given up (60)")
    parser.add_argument("--only", choices=("pending", "floor"), help="measure this alone, and leave the rest of the page as it is")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[3] / "docs", help="directory (docs)")
    asked = parser.parse_args()
    machine, cluster = describe(), start()
    found: list[dict[str, Any]] = []
    with cluster.namespace() as namespace, cluster.namespace() as team:
        release = Release(cluster, "examples", namespace, find_helm())
        release.install(values(team))
        try:
            node = cluster.node(min(release.agents()))
            with priorities(cluster, namespace):
                for number in range(asked.rounds):
                    for victim in () if asked.only == "floor" else (ENDS, IGNORES, HANGS):
                        for contender in (WITHOUT, WITH):
                            found.append(_pends(release, node, victim, contender, asked.limit) | {"round": number})
                            print(found[-1], flush=True)
                    for contender in () if asked.only == "pending" else (NOBODY, KEEPER):
                        found.append(_below(release, node, team, contender, asked.limit / 4) | {"round": number})
                        print(found[-1], flush=True)
        finally:
            release.uninstall()
            remove_state(release)
    if asked.only:
        kept = json.loads((asked.out / "examples-performance.json").read_text())["measurements"]
        found += [one for one in kept if (one["case"] == "floor") != (asked.only == "floor")]
    versions = cluster.get("node", node.name)["status"]["nodeInfo"]
    results: dict[str, Any] = {
        "command": f"python -m e2e.k8s.bench_examples --rounds {asked.rounds} --limit {asked.limit:g}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "cluster": f"Kubernetes {versions['kubeletVersion']}, {versions['containerRuntimeVersion']}, cgroup v1",
        "limit": asked.limit,
        "measurements": found,
    }
    (asked.out / "examples-performance.json").write_text(json.dumps(results, indent=1) + "\n")
    print(page.write(asked.out))
    return 0


def _pends(release: Release, node: LocalNode, victim: str, contender: str, limit: float) -> dict[str, Any]:
    """Seconds from the moment at which an important pod was created until it runs, and who has died for it."""
    cluster, prefix = release.cluster, release.namespace
    with cluster.namespace() as namespace, contextlib.ExitStack() as stack:
        part = free_mib(cluster, node.name) // 20
        cluster.run_pod(pod(cluster, "other", 16, node.name, f"{prefix}-low", 5 * part), namespace)
        stack.enter_context(_victim(cluster, node, namespace, victim, f"{prefix}-lowest", 5 * part))
        before = cluster.pods(namespace)
        name = "preempting" if contender == WITHOUT else "high"
        if contender == WITH:
            stack.enter_context(preemption(release, namespace, "--force")).await_said("makes room")
        kube = stack.enter_context(Kubernetes(kubeconfig=str(cluster.kubeconfig)))
        begin = time.monotonic()
        # 10 of 20 parts are requested: what is missing is less than what one of the two has.
        cluster.apply(pod(cluster, "important", 16, node.name, f"{prefix}-{name}", 13 * part), namespace=namespace)

        def runs() -> bool:
            time.sleep(_PAUSE)
            return any(each.name == "important" and each.phase == "Running" for each in kube.pods(namespace, time.monotonic() + 10))

        seconds = _time(runs, begin, limit)
        return {"case": victim, "contender": contender, "seconds": seconds, "killed": _ended(cluster, namespace, before)}


@contextlib.contextmanager
def _victim(cluster: Cluster, node: LocalNode, namespace: str, kind: str, priority_class: str, mib: int) -> Generator[None]:
    if kind == HANGS:
        with hanging_pod(
            cluster, node, namespace, resources=wants(mib), priorityClassName=priority_class, terminationGracePeriodSeconds=30
        ):
            yield
        return
    made = pod(cluster, "victim", 128, node.name, priority_class, mib, terminationGracePeriodSeconds=30)
    if kind == IGNORES:
        (container,) = made["spec"]["containers"]
        container["command"] = [word.replace("sys.exit(143)", "None") for word in container["command"]]
    cluster.run_pod(made, namespace)
    yield


def _ended(cluster: Cluster, namespace: str, before: list[Pod]) -> int:
    """How many of these pods are gone, or going."""
    items = cluster.get("pods", namespace=namespace)["items"]
    there = {item["metadata"]["uid"] for item in items if "deletionTimestamp" not in item["metadata"]}
    return len({each.uid for each in before} - there)


def _below(release: Release, node: LocalNode, namespace: str, contender: str, limit: float) -> dict[str, Any]:
    """Seconds for which a node is below the floor when one BestEffort pod takes 1 GiB, beside a small one."""
    cluster = release.cluster
    with contextlib.ExitStack() as stack:
        cluster.run_pod(hog("small", 64, cluster.image, node=node.name, restart="Never"), namespace)
        floor, keeper = meminfo("MemAvailable") // MIB - 600, None
        if contender == KEEPER:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = ("--floor", f"{floor}Mi", "--margin", "64Mi")
            keeper = stack.enter_context(memory_floor(release, node.name, FLOOR, folder, *options))
            keeper.await_said("watches")
        stack.enter_context(lab.thrashing())  # so that PSI has something to say
        cluster.apply(hog("big", 1024, cluster.image, node=node.name, restart="Never"), namespace=namespace)
        until(lambda: meminfo("MemAvailable") < floor * MIB, "the node to be below the floor", 60)
        seconds = _short(floor, keeper, limit)
        if keeper is not None and seconds is None:
            print(keeper.said())  # somebody else on this machine takes memory, or gives it back late
        if contender == KEEPER:
            until(lambda: any(each.phase == "Failed" for each in cluster.pods(namespace)), "kubelet to see it", 60)
        ended = sum(each.phase == "Failed" for each in cluster.pods(namespace))
    cluster.kubectl("delete", "pods", "--all", "-n", namespace, "--grace-period=1")
    return {"case": "floor", "contender": contender, "seconds": seconds, "killed": ended}


def _short(floor_mib: int, keeper: Example | None, limit: float) -> float | None:
    """For how many seconds less was available, from the first time on until the keeper says that it is over; None: for all the limit."""
    begin = last = time.monotonic()
    short = 0.0
    while last - begin < limit:
        time.sleep(_PAUSE / 10)
        now = time.monotonic()
        is_short = meminfo("MemAvailable") < floor_mib * MIB
        short += (now - last) * is_short
        last = now
        if not is_short and keeper is not None and "goal met" in keeper.said():
            return short
    return None


def _time(condition: Callable[[], bool], begin: float, limit: float) -> float | None:
    """Seconds since ``begin`` until it holds; None: not within the limit."""
    while not condition():
        if time.monotonic() - begin > limit:
            return None
        time.sleep(_PAUSE / 10)
    return time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main())
