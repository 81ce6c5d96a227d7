"""What finding agents and pods costs the caller and the API server, on 10, 100 and 1,000 nodes, and what the controller costs there.

    PYTHONPATH=tests .venv/bin/python -m e2e.k8s.bench_scale --nodes 10,100,1000

It starts an API server of its own (`make e2e-up` has built it) and writes docs/kubernetes-scale.json, a picture,
and its section of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from bench.machine import describe
from e2e.k8s.scale_objects import AGENTS, PER_SLICE, SERVICE, endpoint, populate
from e2e.k8s.scale_report import write
from e2e.k8s.standalone import CALLER, Plane, plane, rss_of
from support import patience
from support.lab import until

PODS_PER_NODE = 10
#: What a caller does once; each in a process of its own.
ONCE = ("pod", "workload", "doctor")
_LOOKUPS = 20
# The API server watches them itself.
_OWN_WATCHES = 1
# And lists Services now and then, which the controller does not.
_OF_CONTROLLER = ("LIST pods", "LIST endpointslices", "LIST nodes", "GET pods", "GET nodes", "GET leases")
_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{AGENTS}/endpointslices"
_TESTS = Path(__file__).parents[2]


def main() -> int:
    """Measure, write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="10,100,1000", help="how many nodes (10,100,1000)")
    parser.add_argument("--rounds", type=int, default=5, help="of each; the median counts (5)")
    parser.add_argument("--steady", type=float, default=30, help="seconds for which who watches is watched (30)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[3] / "docs", help="directory (docs)")
    asked = parser.parse_args()
    machine, sizes, found = describe(), sorted(int(word) for word in asked.nodes.split(",")), list[dict[str, Any]]()
    with plane() as made:
        there = 0
        for nodes in sizes:
            begin = time.monotonic()
            populate(made, nodes, PODS_PER_NODE, first=there)
            there = nodes
            print(f"{nodes} nodes are written after {time.monotonic() - begin:.0f} s", flush=True)
            found += measure(made, nodes, asked.rounds, asked.steady)
            found.append({"nodes": nodes, "what": "apiserver", "memory_bytes": made.rss_bytes()})
        node_bytes = len(made.ask("GET", "/api/v1/nodes/node-0"))
        slice_bytes = max(len(json.dumps(item)) for item in json.loads(made.ask("GET", _SLICES))["items"])
    results: dict[str, Any] = {
        "command": f"python -m e2e.k8s.bench_scale --nodes {asked.nodes} --rounds {asked.rounds} --steady {asked.steady:g}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "pods_per_node": PODS_PER_NODE,
        "per_slice": PER_SLICE,
        "lookups": _LOOKUPS,
        "node_bytes": node_bytes,
        "slice_bytes": slice_bytes,
        "measurements": found,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    for path in write(json.loads(json.dumps(results)), asked.out):
        print(path)
    return 0


def measure(plane: Plane, nodes: int, rounds: int, steady: float) -> list[dict[str, Any]]:
    """Everything for so many nodes, which are there."""
    found: list[dict[str, Any]] = []
    for what in ONCE:
        runs = [_once(plane, what) for _ in range(rounds)]
        medians = {key: statistics.median(run[key] for run in runs) for key in ("seconds", "cpu_seconds", "memory_bytes", "sent_bytes")}
        # The API server asks itself now and then: the least of all runs is the caller's own.
        requests = min((run["requests"] for run in runs), key=lambda counts: sum(counts.values()))
        found.append({"nodes": nodes, "what": what, "found": runs[0]["found"], "requests": requests, **medians})
    found.append({"nodes": nodes, "what": "watched", **_watched(plane, steady)})
    if importlib.util.find_spec("mrelease_controller") is not None:
        found.append({"nodes": nodes, "what": "controller", **_controller(plane, steady)})
    for one in found:
        print(json.dumps(one), flush=True)
    return found


def _once(plane: Plane, what: str) -> dict[str, Any]:
    with counted(plane) as cost, caller(plane, what) as process:
        said = json.loads(process.communicate()[0])
    return {**said, **cost}


def _watched(plane: Plane, steady: float) -> dict[str, Any]:
    with caller(plane, "watched") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with counted(plane) as start:
            begun = _line(process.stdout)
            until(lambda: plane.watches()["endpointslices"] > _OWN_WATCHES, "the watch to begin")
        with counted(plane) as cost:
            seconds: list[float] = []
            for _ in range(_LOOKUPS):
                seconds.append(_ask(process)["seconds"])
                time.sleep(steady / _LOOKUPS)
        _move(plane, str(begun["first"]))
        begin = time.monotonic()
        until(lambda: _ask(process)["pod"] == "moved", "the agent's new pod to be known")
        moved = time.monotonic() - begin
        rss = rss_of(process.pid)
        process.stdin.close()
        process.wait()
    return {
        "seconds": begun["seconds"],
        "requests": start["requests"],
        "steady_requests": cost["requests"],
        "steady_seconds": steady,
        "lookup_seconds": statistics.median(seconds),
        "moved_seconds": moved,
        "memory_bytes": rss,
    }


def _controller(plane: Plane, steady: float) -> dict[str, Any]:
    config = plane.directory / "controller.yaml"
    config.write_text("version: 1\ndry_run: true\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    names = {"ca": "ca.crt", "cert": "client.crt", "key": "client.key"}
    tls = [word for name, file in names.items() for word in (f"--tls-{name}", str(plane.directory / file))]
    command = [sys.executable, "-m", "mrelease_controller", "--config", str(config), "--kubeconfig", str(plane.kubeconfig(CALLER))]
    command += ["--agents", f"{AGENTS}/{SERVICE}", "--lease", "none", "--http-listen", address, *tls]
    log = plane.directory / "controller.log"

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the controller ended: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    own, begin = plane.watches(), time.monotonic()
    with counted(plane) as start, log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            until(is_ready, "the controller to be ready", 120 * patience.FACTOR)
            seconds, before, cpu = time.monotonic() - begin, plane.requests(), _cpu(process.pid)
            watches = dict(plane.watches() - own)
            time.sleep(steady)
            cost = _named(plane.requests() - before)
            cost = {name: cost[name] for name in cost if name in _OF_CONTROLLER}
            used, rss = _cpu(process.pid) - cpu, rss_of(process.pid)
        finally:
            process.terminate()
    return {
        "seconds": seconds,
        "requests": {name: count - cost.get(name, 0) for name, count in start["requests"].items() if name in _OF_CONTROLLER},
        "sent_bytes": start["sent_bytes"],
        "watches": watches,
        "steady_requests": cost,
        "steady_seconds": steady,
        "steady_cpu_seconds": used,
        "memory_bytes": rss,
    }


@contextlib.contextmanager
def counted(plane: Plane) -> Generator[dict[str, Any]]:
    """What the API server has answered meanwhile: filled when the block ends."""
    found: dict[str, Any] = {}
    requests, sent = plane.requests(), plane.sent_bytes()
    yield found
    found["requests"] = _named(plane.requests() - requests)
    after = plane.sent_bytes() - sent
    found["sent_bytes"] = sum(count for name, count in after.items() if name in found["requests"])


@contextlib.contextmanager
def caller(plane: Plane, what: str) -> Generator[subprocess.Popen[bytes]]:
    """A process that does ``what`` with the resolver, see scale_caller."""
    command = [sys.executable, "-m", "e2e.k8s.scale_caller", str(plane.kubeconfig(CALLER)), what]
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def _ask(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"ask\n")
    process.stdin.flush()
    return _line(process.stdout)


def _line(stream: IO[bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stream.readline())
    return found


def _move(plane: Plane, node: str) -> None:
    """The agent of a node is another pod now, as after an update: its EndpointSlice says so."""
    for item in json.loads(plane.ask("GET", _SLICES))["items"]:
        for number, each in enumerate(item["endpoints"]):
            if each["nodeName"] == node:
                item["endpoints"][number] = endpoint(int(node.rpartition("-")[2]), "moved")
                plane.ask("PUT", f"{_SLICES}/{item['metadata']['name']}", item)
                return
    raise LookupError(node)


def _named(requests: Counter[str]) -> dict[str, int]:
    """Those that a client makes of objects: without metrics and health, what the API server asks of itself, and ADMIN's writing."""
    kinds = {"pods", "nodes", "endpointslices", "services", "secrets", "events", "leases", "pods/portforward"}
    own = ("WATCH", "POST", "PUT", "PATCH", "APPLY")
    return {name: count for name, count in sorted(requests.items()) if name.split()[-1] in kinds and name.split()[0] not in own}


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
