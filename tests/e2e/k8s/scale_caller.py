"""A caller in a process of its own, so that its time and its memory are its own: does one thing with the resolver and says what that cost.

    python -m e2e.k8s.scale_caller KUBECONFIG WHAT

WHAT: ``pod``, one pod by its name; ``workload``, a pod of each node by a selector; ``doctor``, every node and its agent; ``watched``, the
agents kept up with: it prints a line, and then another for each line that it is told: with ``ask`` it looks up every agent.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from mrelease.resolvers.kubernetes import Kubernetes


def main(kubeconfig: str, what: str) -> None:
    """Do it, and print JSON."""
    before = _peak()
    begin, cpu = time.monotonic(), time.process_time()
    # Agents at their own addresses, as from a pod of the cluster.
    with Kubernetes(kubeconfig=kubeconfig, tunnel=False, watched=what == "watched") as kube:
        found = _watched(kube, begin) if what == "watched" else _once(kube, what)
        cost = {"seconds": time.monotonic() - begin, "cpu_seconds": time.process_time() - cpu, "memory_bytes": _peak() - before}
        _say(**cost, base_bytes=before, found=found)


def _once(kube: Kubernetes, what: str) -> int:
    end = time.monotonic() + 300
    if what == "doctor":
        return sum(bool(kube.reach(name, end).address) for name in kube.nodes(None, end))
    ref = "k8s://load/load-0-0" if what == "pod" else "k8s://load?selector=app%3Dweb"
    return sum(placement.problem is None for placement in kube.resolve(ref, 300))


def _watched(kube: Kubernetes, begin: float) -> int:
    names = list(kube.agents(time.monotonic() + 300))
    _say(seconds=time.monotonic() - begin, found=len(names), first=names[0])
    for word in sys.stdin:
        now, cpu = time.monotonic(), time.process_time()
        pods = {name: kube.agents(now + 300)[name].pod for name in names[:1]}
        for name in names:
            kube.reach(name, now + 300)
        _say(seconds=time.monotonic() - now, cpu_seconds=time.process_time() - cpu, pod=pods[names[0]], word=word.strip(), rss=_peak())
    return len(names)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _peak() -> int:
    # Not getrusage(2): its peak begins with that of the process that started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main(*sys.argv[1:])
