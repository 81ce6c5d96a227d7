"""How long a starved pod keeps its memory: `kubectl delete --grace-period=0 --force` beside the agent of the chart.

    PYTHONPATH=tests .venv/bin/python -m e2e.k8s.bench_delete --rounds 5 --neighbours 2,8,32

On the cluster of this machine (`make e2e-up`), as root; it writes docs/kubernetes-performance.json, a picture,
and its section of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.machine import describe
from e2e.cluster import Cluster, LocalNode, Pod, hog, start
from e2e.k8s.bench_report import FORCE_DELETE, OURS, write
from e2e.k8s.conftest import remove_state
from e2e.k8s.release import Release, find_helm
from e2e.k8s.victims import PYTHON
from mrelease import Client, Wait
from mrelease import Pod as PodTarget
from support.lab import until

#: Burstable pods that want all CPU time, beside the BestEffort neighbours.
BURSTABLE = 4
#: The load runs so long before a pod is deleted, s.
_SETTLE = 2.0
_SPIN = "while True: pass"
_SAMPLE = 0.002


@dataclass(frozen=True, slots=True)
class Measurement:
    """One pod. Seconds since the command or the call was begun; None: not within ``limit``."""

    contender: str
    neighbours: int
    round: int
    back: float | None
    exit: float | None
    returned: float | None


def main() -> int:
    """Measure, write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of each contender with each number of neighbours (5)")
    parser.add_argument("--neighbours", default="2,8,32", help="BestEffort pods that are busy beside the victim (2,8,32)")
    parser.add_argument("--mib", type=int, default=1024, help="of the victim (1024)")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a victim that keeps its memory is given up (120)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[3] / "docs", help="directory (docs)")
    asked = parser.parse_args()
    counts = [int(word) for word in asked.neighbours.split(",")]
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)  # it observes, and must be on time
    machine, cluster = describe(), start()
    found: list[Measurement] = []
    with cluster.namespace() as namespace:
        release = Release(cluster, "bench", namespace, find_helm())
        release.install({})
        try:
            node = cluster.node(min(release.agents()))
            for count in counts:
                found += _measure(release, node, count, asked.rounds, asked.mib, asked.limit)
        finally:
            release.uninstall()
            remove_state(release)
    versions = cluster.get("node", node.name)["status"]["nodeInfo"]
    results: dict[str, Any] = {
        "command": f"python -m e2e.k8s.bench_delete --rounds {asked.rounds} --neighbours {asked.neighbours} --limit {asked.limit:g}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "cluster": f"Kubernetes {versions['kubeletVersion']}, {versions['containerRuntimeVersion']}, cgroup v1",
        "mib": asked.mib,
        "burstable": BURSTABLE,
        "limit": asked.limit,
        "measurements": [asdict(one) for one in found],
    }
    for path in write(json.loads(json.dumps(results)), asked.out):
        print(path)
    return 0


def _measure(release: Release, node: LocalNode, neighbours: int, rounds: int, mib: int, limit: float) -> list[Measurement]:
    found: list[Measurement] = []
    with release.cluster.namespace() as namespace, _load(release.cluster, node, namespace, neighbours) as hogs:
        for number in range(rounds):
            for contender in (FORCE_DELETE, OURS) if number % 2 == 0 else (OURS, FORCE_DELETE):
                name = f"victim-{number}-{'ours' if contender == OURS else 'delete'}"
                manifest = hog(name, mib, release.cluster.image, node=node.name, restart="Never")
                victim = release.cluster.run_pod(manifest, namespace)
                with release.client(node.name, timeout=limit) as client, _running(hogs):
                    one = _round(release.cluster, client, node, victim, contender, limit)
                found.append(Measurement(contender, neighbours, number, *one))
                print(f"{neighbours} neighbours, round {number}: {contender}: back {_s(one[0])}, exit {_s(one[1])}, returned {_s(one[2])}")
                release.cluster.kubectl("delete", "pod", name, "-n", namespace, "--force", "--grace-period=0", "--ignore-not-found")
                release.await_gone(victim)
    return found


def _round(
    cluster: Cluster, client: Client, node: LocalNode, victim: Pod, contender: str, limit: float
) -> tuple[float | None, float | None, float | None]:
    container = victim.containers["hog"]
    (pid,) = node.pids(container)
    charge, full = node.cgroup(container) / "memory.usage_in_bytes", node.charge(container)
    pidfd = os.pidfd_open(pid)
    times: dict[str, float] = {}
    begin = time.monotonic()

    def act() -> None:
        if contender == OURS:
            client.kill_and_release(PodTarget(victim.uid), wait=Wait.EXITED, timeout=limit, reason="benchmark")
        else:
            cluster.kubectl("delete", "pod", victim.name, "-n", victim.namespace, "--grace-period=0", "--force", timeout=limit)
        times["returned"] = time.monotonic() - begin

    actor = threading.Thread(target=act)
    actor.start()
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while len(times.keys() & {"back", "exit"}) < 2 and time.monotonic() - begin < limit:
        if "exit" not in times and poll.poll(_SAMPLE * 1000):
            times["exit"] = time.monotonic() - begin
        elif "exit" in times:
            time.sleep(_SAMPLE)
        if "back" not in times and _charged(charge) <= full * 0.05:
            times["back"] = time.monotonic() - begin
    if "exit" not in times:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    actor.join()
    return times.get("back"), times.get("exit"), times.get("returned")


def _charged(file: Path) -> int:
    try:
        return int(file.read_text())
    except OSError:  # kubelet has removed the cgroup, which it does when nothing is in it
        return 0


@contextlib.contextmanager
def _load(cluster: Cluster, node: LocalNode, namespace: str, neighbours: int) -> Generator[list[int], None, None]:
    """Busy pods on the node, stopped: what they run is told to go on when it is wanted. Pids of their processes."""
    for name, count, resources in (("besteffort", neighbours, {}), ("burstable", BURSTABLE, {"requests": {"cpu": "100m"}})):
        labels = {"load": name}
        container = {"name": "spin", "image": cluster.image, "command": [PYTHON, "-Sc", _SPIN], "resources": resources}
        spec = {
            "containers": [container],
            "nodeSelector": {"kubernetes.io/hostname": node.name},
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        }
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": count,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
        cluster.apply(deployment, namespace=namespace)
    pids: dict[str, int] = {}

    def all_stopped() -> bool:
        # Each is stopped as soon as it runs: all together would keep the others from being started.
        for pod in cluster.pods(namespace, "load"):
            if pod.phase == "Running" and pod.uid not in pids:
                (pid,) = node.pids(pod.containers["spin"])
                os.kill(pid, signal.SIGSTOP)
                pids[pod.uid] = pid
        return len(pids) == neighbours + BURSTABLE

    until(all_stopped, f"{neighbours + BURSTABLE} busy pods to run", 300)
    try:
        yield list(pids.values())
    finally:
        cluster.kubectl("delete", "deployments", "--all", "-n", namespace)
        cluster.kubectl("delete", "pods", "-l", "load", "-n", namespace, "--force", "--grace-period=0", timeout=300)


@contextlib.contextmanager
def _running(pids: Iterable[int]) -> Generator[None, None, None]:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    try:
        time.sleep(_SETTLE)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)


def _s(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.3f} s"


if __name__ == "__main__":
    sys.exit(main())
