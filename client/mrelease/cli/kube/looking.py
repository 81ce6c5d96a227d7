"""``kubectl mrelease top``, ``ps`` and ``watch``: what would come back, and from whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click

from mrelease import AsyncClient, MemorySample, MreleaseError, NodeMemory, ProcessInfo, QosClass, _text, errors
from mrelease.cli import exit_codes, formats, output, params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube import completing, pods
from mrelease.cli.kube.fanout import failures, over, why
from mrelease.cli.kube.settings import KubeSettings, common_options, pass_settings
from mrelease.errors import ReferenceNotFound
from mrelease.resolvers.kubernetes import Kubernetes, PodObject

_CLASSES: tuple[QosClass, ...] = (QosClass.BEST_EFFORT, QosClass.BURSTABLE, QosClass.GUARANTEED)


@dataclass(frozen=True, slots=True)
class Look:
    """What an agent says of its node at one moment."""

    processes: tuple[ProcessInfo, ...]
    sample: MemorySample | None = None

    @property
    def memory(self) -> NodeMemory | None:
        """Of the node."""
        return None if self.sample is None else self.sample.memory


@click.group()
def top() -> None:
    """Show what would come back: of nodes, or of pods."""


@top.command("nodes")
@click.argument("names", metavar="[NODE]...", nargs=-1, shell_complete=completing.node_names)
@common_options
@pass_settings
def top_nodes(settings: KubeSettings, /, names: tuple[str, ...]) -> ExitCode:
    """Show memory and memory pressure of nodes, and what the deaths of their pods would give back.

    PRESSURE is the share of the last 10 s in which a task waited for memory. BESTEFFORT, BURSTABLE and GUARANTEED: what the pods of this
    quality of service hold and their death would give back, at most: processes share pages after fork.
    """

    async def look(_name: str, client: AsyncClient) -> Look:
        async with aclosing(client.watch_memory()) as samples:
            sample = await anext(samples)
        return Look((await client.list_processes(limit=None)).processes, sample)

    with settings.cluster() as cluster:
        known = cluster.nodes(names or None, settings.end())
        _all_there(names, known)
        looks = asyncio.run(over(cluster, settings, known, look))
    found = {name: each for name, each in looks.items() if isinstance(each, Look)}
    failed = _failed(looks.items())
    if settings.is_table:
        header = ("NODE", "AVAILABLE", "PRESSURE", "BESTEFFORT", "BURSTABLE", "GUARANTEED", "PODS")
        rows = [header, *(_node_row(name, look) for name, look in found.items()), *((name, *("-",) * 6) for name, _ in failed)]
        output.out(*output.columns(rows, right=range(1, 7)), *failures(failed))
    else:
        data = [_node_data(name, look) for name, look in looks.items()]
        output.out(formats.dump({"nodes": data}, settings.output))
    return exit_codes.worst(exit_codes.of_error(error) for _, error in failed)


@top.command("pods")
@click.option("-l", "--selector", default="", metavar="SELECTOR", help="Only pods with these labels.")
@click.option("--node", default="", metavar="NAME", help="Only pods on this node.")
@click.option("--limit", type=click.IntRange(min=1), metavar="COUNT", help="How many pods at most. Default: all.")
@common_options
@pass_settings
def top_pods(settings: KubeSettings, /, selector: str, node: str, limit: int | None) -> ExitCode:
    """Show pods by what their death would give back, the most first.

    RECLAIMABLE is anonymous memory and swap of their processes, at most: processes share pages after fork. SHMEM, such as files of a memory
    emptyDir, stays until the pod is deleted. A pod that is Terminating and still holds memory is one for `release`.
    """
    with settings.cluster() as cluster:
        found = cluster.pods(settings.where(cluster), settings.end(), selector=selector, node=node)
        placed = {pod.uid: pod for pod in found if pod.node and not pod.is_finished}
        looks = asyncio.run(over(cluster, settings, {pod.node for pod in placed.values()}, _processes))
    held = {uid: _Held(pod) for uid, pod in placed.items()}
    for look in looks.values():
        for process in look.processes if isinstance(look, Look) else ():
            if process.pod_uid in held:
                held[process.pod_uid].add(process)
    failed = _failed(looks.items())
    rows = sorted(held.values(), key=lambda each: (-each.reclaimable, each.pod.title))[:limit]
    rows = [each for each in rows if isinstance(looks.get(each.pod.node), Look)]
    if settings.is_table:
        header = ("NAMESPACE", "POD", "NODE", "QOS", "STATUS", "PROCESSES", "RECLAIMABLE", "SHMEM")
        output.out(*output.columns([header, *(each.row() for each in rows)], right=(5, 6, 7)), *failures(failed))
    else:
        data = {"pods": [each.to_data() for each in rows], "errors": [_error_data(name, error) for name, error in failed]}
        output.out(formats.dump(data, settings.output))
    return exit_codes.worst(exit_codes.of_error(error) for _, error in failed)


@click.command()
@pods.pod_arguments
@click.option("--limit", type=click.IntRange(min=1), metavar="COUNT", help="How many processes at most. Default: all.")
@common_options
@pass_settings
def ps(settings: KubeSettings, /, names: tuple[str, ...], selector: str | None, container: str | None, limit: int | None) -> ExitCode:
    """List the processes of pods, the one whose death gives most memory back first.

    Without a pod: those of every pod of the namespace. PID:INODE is the process on its node, whatever the container calls it.
    """
    with settings.cluster() as cluster:
        if names or selector is not None:
            asked = pods.wanted(names, selector, container, settings.where(cluster))
            results = pods.find(cluster, settings, asked)
        else:
            everyone = cluster.pods(settings.where(cluster), settings.end())
            results = [pods.Found(pod, None, pod.title) for pod in everyone if pod.node and not pod.is_finished]
        known = {each.pod.uid: each.pod for each in results if each.pod is not None}
        looks = asyncio.run(over(cluster, settings, {pod.node for pod in known.values()}, _processes))
    failed = [*((each.name, each.error) for each in results if each.error is not None), *_failed(looks.items())]
    rows = [
        (known[process.pod_uid], process)
        for look in looks.values()
        if isinstance(look, Look)
        for process in look.processes
        if process.pod_uid in known and container in (None, _container_name(known[process.pod_uid], process))
    ]
    rows = sorted(rows, key=lambda row: -row[1].reclaimable_bytes)[:limit]
    if settings.is_table:
        header = ("NAMESPACE", "POD", "CONTAINER", "NODE", "PID:INODE", "STATE", "RECLAIMABLE", "COMMAND", "PROTECTED")
        output.out(*output.columns([header, *(_process_row(*row) for row in rows)], right=(6,)), *failures(failed))
    else:
        data: list[dict[str, Any]] = [
            {"namespace": pod.namespace, "pod": pod.name, "node": pod.node, "container": _container_name(pod, process)}
            | {"process": formats.to_data(process)}
            for pod, process in rows
        ]
        output.out(formats.dump({"processes": data, "errors": [_error_data(*each) for each in failed]}, settings.output))
    return exit_codes.worst(exit_codes.of_error(error) for _, error in failed)


@click.command()
@click.argument("node", metavar="NODE", shell_complete=completing.node_names)
@click.option("--interval", type=params.duration, default="1s", show_default=True, help="Time between two samples, 100ms to 1h.")
@click.option("--once", is_flag=True, help="Print one sample and end.")
@common_options
@pass_settings
def watch(settings: KubeSettings, /, node: str, interval: timedelta, once: bool) -> ExitCode:
    """Watch the memory and the memory pressure of a node, one line at each interval, until it is stopped."""
    with settings.cluster() as cluster:
        try:
            asyncio.run(_watch(cluster, settings, node, interval, once=once))
        except KeyboardInterrupt:
            # That is how it is meant to end.
            return ExitCode.INTERRUPTED
    return ExitCode.OK


async def _watch(cluster: Kubernetes, settings: KubeSettings, node: str, interval: timedelta, *, once: bool) -> None:
    agent = await asyncio.to_thread(cluster.reach, node, settings.end())
    async with AsyncClient(agent.address, tls=agent.tls) as client:
        try:
            async with aclosing(client.watch_memory(interval=interval)) as samples:
                async for sample in samples:
                    if settings.is_table:
                        output.out(str(sample))
                    else:
                        data: Any = {"node": node, "sample": formats.to_data(sample)}
                        output.out(json.dumps(data) if settings.output == "json" else f"---\n{formats.dump(data, 'yaml')}")
                    if once:
                        return
        except errors.Unreachable as error:
            raise why(cluster, agent, node, error) from None


async def _processes(_name: str, client: AsyncClient) -> Look:
    return Look((await client.list_processes(limit=None)).processes)


class _Held:
    """What the processes of a pod hold."""

    def __init__(self, pod: PodObject) -> None:
        self.pod = pod
        self.processes = self.reclaimable = self.shmem = 0

    def add(self, process: ProcessInfo) -> None:
        """One of its processes; the sandbox is not counted, as nobody kills it."""
        if not process.protection:
            self.processes += 1
            self.reclaimable += process.reclaimable_bytes
            self.shmem += process.memory.shmem_bytes

    def row(self) -> tuple[str, ...]:
        """Its cells."""
        pod = self.pod
        names = (pod.namespace, pod.name, pod.node, pod.qos, _text.printable(pod.status))
        return (*names, str(self.processes), _text.size(self.reclaimable), _text.size(self.shmem))

    def to_data(self) -> dict[str, Any]:
        """The same for programs."""
        pod = self.pod
        names = {"namespace": pod.namespace, "name": pod.name, "uid": pod.api_uid, "node": pod.node, "qos": pod.qos, "status": pod.status}
        return {**names, "processes": self.processes, "reclaimable_bytes": self.reclaimable, "shmem_bytes": self.shmem}


def _node_row(name: str, look: Look) -> tuple[str, ...]:
    memory, pressure = look.memory, look.sample.pressure if look.sample else None
    available = "-" if memory is None else _text.share(memory.available_bytes, memory.total_bytes)
    felt = "-" if pressure is None else f"{pressure.some.avg10_percent:.2f} %"
    held = _by_class(look.processes)
    uids = {process.pod_uid for process in look.processes if process.pod_uid}
    return (name, available, felt, *(_text.size(held[each]) for each in _CLASSES), str(len(uids)))


def _node_data(name: str, look: Look | MreleaseError) -> dict[str, Any]:
    if isinstance(look, MreleaseError):
        return {"name": name, "sample": None, "reclaimable_bytes": None, "error": formats.error_data(look)}
    held = {each.name: size for each, size in _by_class(look.processes).items()}
    return {"name": name, "sample": formats.to_data(look.sample), "reclaimable_bytes": held, "error": None}


def _by_class(processes: Iterable[ProcessInfo]) -> dict[QosClass, int]:
    held: dict[QosClass, int] = dict.fromkeys(_CLASSES, 0)
    for process in processes:
        if process.pod_uid and not process.protection and process.qos in held:
            held[process.qos] += process.reclaimable_bytes
    return held


def _process_row(pod: PodObject, process: ProcessInfo) -> tuple[str, ...]:
    names = (pod.namespace, pod.name, _container_name(pod, process) or "-", pod.node, str(process.process))
    words = (_text.printable(process.command), _text.printable(process.protection))
    return (*names, _text.printable(process.state), _text.size(process.reclaimable_bytes), *words)


def _container_name(pod: PodObject, process: ProcessInfo) -> str:
    """What the pod calls the container of a process; empty for the sandbox, and for one of an earlier life."""
    return next((each.name for each in pod.containers if process.container_id and each.id == process.container_id), "")


def _failed(looks: Iterable[tuple[str, Look | MreleaseError]]) -> list[tuple[str, MreleaseError]]:
    return [(name, look) for name, look in looks if isinstance(look, MreleaseError)]


def _error_data(name: str, error: MreleaseError) -> dict[str, Any]:
    return {"name": name, **formats.error_data(error)}


def _all_there(names: Sequence[str], known: Iterable[str]) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise ReferenceNotFound(f"there is no node {', '.join(missing)}", "list them: kubectl get nodes")
