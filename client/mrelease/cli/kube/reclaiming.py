"""``kubectl mrelease reclaim``: so much memory of one node, from as few pods as are needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import click

from mrelease import AsyncClient, MreleaseError, NodeRef, Pod, ProcessInfo, Target, _text, errors
from mrelease.cli import answers, formats, output, params
from mrelease.cli.bars import can_draw
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube import completing
from mrelease.cli.kube.fanout import why
from mrelease.cli.kube.settings import KubeSettings, common_options, pass_settings
from mrelease.cli.reclaimed import Goal, Reclaimed
from mrelease.cli.request_options import kill_arguments, kill_options
from mrelease.cli.view import View
from mrelease.errors import ReferenceNotFound
from mrelease.resolvers import Agent
from mrelease.resolvers.kubernetes import Kubernetes, PodObject

# Who dies first, as kubelet evicts: Kubernetes, "Node-pressure Eviction".
_ORDER: Final = {"BestEffort": 0, "Burstable": 1, "Guaranteed": 2}
#: An agent takes so many candidates.
_MOST: Final = 1000


@click.command()
@click.argument("node", metavar="NODE", shell_complete=completing.node_names)
@click.argument("size", metavar="SIZE", type=params.size, required=False)
@click.option("-l", "--selector", metavar="SELECTOR", help="Who may die: pods with these labels, of the namespace or of all (-A).")
@click.option("--available", type=params.size, metavar="SIZE", help="Stop when so much memory of the node is available, instead of SIZE.")
@click.option("--timeout", type=params.duration, default="10s", show_default=True, help="How long to wait for the memory of each pod.")
@click.option("--deadline", type=params.duration, help="How long the whole may take: then no further pod is killed.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the agent's audit log.")
@click.option("--dry-run", is_flag=True, help="Signal nothing: say who would die.")
@kill_options
@common_options
@pass_settings
def reclaim(settings: KubeSettings, /, node: str, size: int | None, **options: Any) -> ExitCode:
    """Get memory of a node back: kill pods with a selector one after the other, only as many as are needed.

    The next one dies only when what the last one held is proven back, or diagnosed as held. The first to die has the lowest priority, then
    the lowest quality of service (BestEffort, Burstable, Guaranteed), then holds most. Pods stay: kubelet starts their containers again as
    the restartPolicy says.

    \b
    kubectl mrelease reclaim node-7 2Gi -A --selector tier=batch --dry-run
    kubectl mrelease reclaim node-7 --available 4Gi -n ml -l app=trainer

    Exit code 0: the goal is met. 8: it is not, and all that was killed is proven back. 3: it is not, and memory may still come back.
    """
    if not options["selector"]:
        raise click.UsageError("say who may die: --selector (every pod with these labels on this node is a candidate)")
    if (size is None) == (options["available"] is None):
        raise click.UsageError("say when to stop, by one of SIZE (2Gi) and --available SIZE")
    arguments = kill_arguments({**options, "node": None, "boot_id": None, "boost": None}) | {"deadline": options["deadline"]}
    with settings.cluster() as cluster:
        found = cluster.pods(settings.where(cluster), settings.end(), selector=options["selector"], node=node)
        candidates = [pod for pod in found if not pod.is_finished]
        if not candidates:
            raise ReferenceNotFound(f"no pod with {options['selector']} runs on node {node}", "look: kubectl mrelease top pods --node")
        there = cluster.nodes([node], settings.end())
        arguments["node"] = NodeRef(node, there[node].boot_id if node in there else "")
        agent = cluster.reach(node, settings.end())
        goal = Goal(released_bytes=size, available_bytes=options["available"])
        done = Reclaimed([], goal, options["dry_run"])
        try:
            asyncio.run(_follow(cluster, agent, node, done, candidates, arguments))
        except KeyboardInterrupt:
            _print(settings, done)
            output.err(f"{output.INTERRUPTED}, and no further pod is killed")
            return ExitCode.INTERRUPTED
    _print(settings, done)
    return done.code


async def _follow(
    cluster: Kubernetes, agent: Agent, node: str, done: Reclaimed, candidates: Sequence[PodObject], arguments: dict[str, Any]
) -> None:
    view: View | None = None
    try:
        async with AsyncClient(agent.address, tls=agent.tls) as client:
            ordered = in_order(candidates, (await client.list_processes(limit=None)).processes)[:_MOST]
            done.candidates = [Pod(pod.uid) for pod in ordered]
            done.titles = {Pod(pod.uid): pod.title for pod in ordered}
            view = View(done) if can_draw() else None
            goal = done.goal
            targets: list[Target] = list(done.candidates)
            async for event in client.reclaim(
                targets, released_bytes=goal.released_bytes, available_bytes=goal.available_bytes, **arguments
            ):
                done.add(event)
                if view is not None:
                    view.update()
    except errors.Unreachable as error:
        done.error = why(cluster, agent, node, error)
    except MreleaseError as error:
        done.error = error
    finally:
        if view is not None:
            view.close()


def in_order(candidates: Sequence[PodObject], processes: Sequence[ProcessInfo]) -> list[PodObject]:
    """The first to die first."""
    held: dict[str, int] = {}
    for process in processes:
        if not process.protection:
            held[process.pod_uid] = held.get(process.pod_uid, 0) + process.reclaimable_bytes
    return sorted(candidates, key=lambda pod: (pod.priority, _ORDER.get(pod.qos, 1), -held.get(pod.uid, 0), pod.title))


def _print(settings: KubeSettings, done: Reclaimed) -> None:
    if not settings.is_table:
        output.out(formats.dump(done.to_data(), settings.output))
        return
    output.out(*done.lines(answers.row_limit()))
    if done.error is not None:
        output.err(f"kubectl mrelease: {_text.printable(str(done.error))}")
