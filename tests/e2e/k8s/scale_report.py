"""The section of large clusters in docs/performance.md, and its picture: made from the measurements alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import page
from bench.markdown import facts, table

MIB: Final = 1 << 20
#: What is drawn and told, and how the tables call it.
CALLERS: Final = {
    "pod": "`k8s://ns/pod`",
    "workload": "`k8s://ns?selector=...`, a pod on each node",
    "doctor": "every node and its agent, as `doctor`",
    "watched": "agents kept up with (`watched=True`)",
    "controller": "`mrelease-controller`",
}
_COLORS: Final = {"pod": "#7f8c8d", "workload": "#2471a3", "doctor": "#b9770e", "watched": "#1e8449", "controller": "#c0392b"}
_FAR: Final = 10_000
_PAGE: Final = 500
Json = dict[str, Any]


def write(results: Json, directory: Path) -> list[Path]:
    """Write numbers, picture and page; their paths."""
    numbers = directory / "kubernetes-scale.json"
    picture = directory / "img" / "kubernetes-scale.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    numbers.write_text(json.dumps(results, indent=1) + "\n")
    library: Any = mpl
    with library.rc_context({"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}):
        _draw(results).savefig(picture, metadata={"Date": None, "Creator": None})
    return [numbers, picture, page.write(directory)]


def _sizes(results: Json) -> list[int]:
    return sorted({one["nodes"] for one in results["measurements"]})


def _one(results: Json, what: str, nodes: int) -> Json | None:
    return next((one for one in results["measurements"] if (one["what"], one["nodes"]) == (what, nodes)), None)


def _known(results: Json, what: str, nodes: int) -> Json:
    found = _one(results, what, nodes)
    assert found is not None
    return found


def _has(results: Json, what: str) -> bool:
    return all(_one(results, what, nodes) for nodes in _sizes(results))


def _far(results: Json, what: str, key: str) -> float:
    """What 10,000 nodes would cost: the two largest sizes on a straight line."""
    low, high = _sizes(results)[-2:]
    a, b = (float(_known(results, what, nodes)[key]) for nodes in (low, high))
    return max(b, b + (b - a) / (high - low) * (_FAR - high))


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _mib(size: float) -> str:
    if size < MIB:
        return f"{size / 1024:.0f} KiB"
    return f"{size / MIB:.1f} MiB" if size < 10 * MIB else f"{size / MIB:.0f} MiB"


def _requests(counts: dict[str, int]) -> str:
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f"{sum(counts.values())}: {said}" if counts else "0"


def section(results: Json) -> str:
    """The section."""
    sizes = _sizes(results)
    about = [("command", f"`{results['command']}`"), ("date", results["date"]), *results["machine"].items()]
    once: list[list[str]] = []
    for what in ("pod", "workload", "doctor"):
        for nodes in sizes:
            one = _known(results, what, nodes)
            cost = [_mib(one["sent_bytes"]), _duration(one["seconds"]), _duration(one["cpu_seconds"]), _mib(one["memory_bytes"])]
            once.append([CALLERS[what], f"{nodes:,}", _requests(one["requests"]), *cost])
    watched: list[list[str]] = []
    for nodes in sizes:
        one = _known(results, "watched", nodes)
        steady = f"{_requests(one['steady_requests'])} in {one['steady_seconds']:g} s, {results['lookups'] * nodes:,} lookups"
        cells = [_requests(one["requests"]), steady, _duration(one["lookup_seconds"]), _duration(one["moved_seconds"])]
        watched.append([f"{nodes:,}", *cells, _mib(one["memory_bytes"])])
    kept = ["nodes", "requests at the start", "requests then", "looking up every agent", "a new agent is known after", "memory (RSS)"]
    return f"""## With the size of the cluster

Measured by `python -m e2e.k8s.bench_scale`; the raw numbers are in [kubernetes-scale.json](kubernetes-scale.json).

{facts(about)}

A real kube-apiserver with its etcd, and no kubelets: nodes, {results["pods_per_node"]} pods on each, an agent's pod on each and the
EndpointSlices of their Service (up to {results["per_slice"]} agents each, as the EndpointSlice controller fills them) are written into it,
with as much in them as kubelet reports; a node has 50 images. To whoever only reads there is no difference to nodes that run, or that kwok
plays: the objects and the requests are the same. Requests and bytes are counted by the API server (`apiserver_request_total`,
`apiserver_response_sizes`); a page of a list is a request. Agents are not called. API server, etcd and caller share two CPUs.

![Requests, time and memory by the number of nodes](img/kubernetes-scale.svg)

### Asked once

Each run is a process of its own; medians. Memory is what it adds to its peak.

{table(["what", "nodes", "requests", "answers", "time", "CPU of the caller", "memory"], once)}

One pod costs five small requests, whatever the size of the cluster. Up to 32 nodes are asked for one by one, which in a large cluster is
less than its list; more come in pages of {_PAGE}, and a page is forgotten when it is read: what stays of a node of some
{results["node_bytes"] / 1024:.0f} KiB are its name and its boot. Where the agents are is asked once, however many threads want to know.

### Kept up with

A program that lives long says `Kubernetes(watched=True)`: one list, then one watch.

{table(kept, watched)}

{_controller(results)}### 10,000 nodes

The two largest sizes on a straight line:

{table(["what", "time", "memory"], _distant(results))}

{_limits(results)}
"""


def _controller(results: Json) -> str:
    if not _has(results, "controller"):
        return ""
    rows: list[list[str]] = []
    for nodes in _sizes(results):
        one = _known(results, "controller", nodes)
        steady = f"{_requests(one['steady_requests'])} in {one['steady_seconds']:g} s"
        cpu = f"{one['steady_cpu_seconds'] / one['steady_seconds'] * 100:.2f} %"
        watches = ", ".join(f"{count} {name}" for name, count in one["watches"].items())
        cells = [_requests(one["requests"]), _mib(one["sent_bytes"]), _duration(one["seconds"]), watches, steady, cpu]
        rows.append([f"{nodes:,}", f"{nodes * (results['pods_per_node'] + 1):,}", *cells, _mib(one["memory_bytes"])])
    header = [
        "nodes",
        "pods",
        "requests at the start",
        "answers",
        "ready after",
        "open watches",
        "requests then",
        "CPU then",
        "memory (RSS)",
    ]
    return f"""### The controller

`mrelease-controller`, dry run, no pod terminating.

{table(header, rows)}

"""


def _distant(results: Json) -> list[list[str]]:
    rows: list[list[str]] = []
    for what in ("workload", "doctor", "watched", "controller"):
        if _has(results, what):
            memory = _mib(_far(results, what, "memory_bytes"))
            if what in ("workload", "doctor"):
                # No straight line: above a page it is that page, and the little that stays.
                memory = f"{_mib(_known(results, what, _sizes(results)[-1])['memory_bytes'])} and what stays of each"
            rows.append([CALLERS[what], _duration(_far(results, what, "seconds")), memory])
    return rows


def _limits(results: Json) -> str:
    slice_bytes, node_bytes = results["slice_bytes"], results["node_bytes"]
    rollout, nodes_sent = _FAR * slice_bytes, _FAR * node_bytes
    slices = math.ceil(_FAR / results["per_slice"])
    pages = math.ceil(_FAR / _PAGE)
    return f"""- **Lists** go on: {pages} pages of nodes, {_mib(nodes_sent)} of answers ({node_bytes / 1024:.0f} KiB a node), and
  {slices} EndpointSlices. It is seconds, once for each command, and the API server's work as much as the caller's.
- **Watching breaks first, and for the API server, not for who watches.** A roll-out of the agents changes a slice for each node, and each
  change carries the whole slice, {slice_bytes / 1024:.0f} KiB: {_FAR:,} x {slice_bytes / 1024:.0f} KiB = {_mib(rollout)} to *each* program
  that watches (at 1,000 nodes {_mib(rollout / 10)}). The controller is one such program. A hundred programs with `watched=True` make it
  {rollout * 100 / (1 << 30):.0f} GiB a roll-out: there let one look, and tell the others.
- **Tunnels** (`kubectl mrelease` from outside of the cluster) are one more request for each node, which the API server and a kubelet carry
  for as long as it is used, 32 at a time. If each takes 50 ms (assumed: there are no kubelets here), {_FAR:,} nodes take
  {_FAR:,} / 32 x 0.05 s = {_FAR / 32 * 0.05:.0f} s. From a pod of the cluster there are none.
- **One process** that looks up agents holds a record of each; that is not what ends first."""


def _draw(results: Json) -> Any:
    sizes = _sizes(results)
    figure: Any = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    keys = (
        ("requests", "API requests at the start", (2, 5, 10, 20, 50)),
        ("seconds", "seconds", (0.03, 0.1, 0.3, 1, 3)),
        ("memory_bytes", "MiB; dashed: the whole process", (2, 5, 10, 20, 50)),
    )
    for axes, (key, label, ticks) in zip(panels, keys, strict=True):
        for what, name in CALLERS.items():
            if not _has(results, what):
                continue
            values = [_value(_known(results, what, nodes), key) for nodes in sizes]
            line = "o--" if key == "memory_bytes" and what in ("watched", "controller") else "o-"
            axes.plot(sizes, values, line, ms=3, color=_COLORS[what], label=name.replace("`", "") if key == "requests" else None)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{nodes:,}" for nodes in sizes])
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.25)
        axes.set_xlabel("nodes")
        axes.set_title(label, fontsize=10)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _value(one: Json, key: str) -> float:
    if key == "requests":
        return float(sum(one["requests"].values()))
    return float(one[key]) / (MIB if key == "memory_bytes" else 1)
