"""What ``kill``, ``release`` and ``delete`` have in common: a request for each pod, and the one table of what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from mrelease import (
    AsyncClient,
    MreleaseError,
    Outcome,
    Pod,
    Process,
    ProcessResult,
    ReleaseResult,
    Verdict,
    errors,
)
from mrelease.cli import answers, exit_codes, formats, output
from mrelease.cli.answers import Answer
from mrelease.cli.asking import Asking, Job
from mrelease.cli.bars import Bars, can_draw
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube.fanout import over
from mrelease.cli.kube.pods import Found
from mrelease.cli.kube.settings import KubeSettings
from mrelease.errors import NoAgent
from mrelease.resolvers import Placement
from mrelease.resolvers.kubernetes import Kubernetes, PodObject

#: Makes the request for a pod; it is given the id by which others may watch it.
Work: TypeAlias = Callable[[AsyncClient, PodObject, Placement, str], Awaitable[ReleaseResult]]

# Between two looks at a pod that is being deleted, in seconds.
_SHORTEST, _LONGEST = 0.1, 1.0
_WELL = (Outcome.RELEASED, Outcome.EXITED)


class Acting:
    """The requests of one command, each at its node."""

    def __init__(self, found: Sequence[Found], work: Work, bars: Bars | None = None) -> None:
        self.found = found
        self.asking = Asking([_job(each, work) for each in found], bars)

    async def run(self, cluster: Kubernetes, settings: KubeSettings) -> None:
        """Make them all, and wait for every answer."""
        results = self.asking.results
        places: dict[str, list[int]] = {}
        for at, each in enumerate(self.found):
            problem = each.error or (each.placement.problem if each.placement else None)
            if problem is not None:
                results[at] = problem
            elif each.placement is not None:
                places.setdefault(each.placement.node, []).append(at)

        async def node(name: str, client: AsyncClient) -> None:
            await self.asking.ask(client, places[name])
            # Where no agent answers that is said in the cluster's words.
            for at in places[name]:
                if isinstance(error := results.get(at), errors.Unreachable):
                    raise error

        try:
            for name, failed in (await over(cluster, settings, places, node, bar=self.asking.bars is None)).items():
                if isinstance(failed, MreleaseError):
                    for at in places[name]:
                        if isinstance(results.get(at, failed), errors.Unreachable | type(failed)):
                            results[at] = failed
        finally:
            self.asking.close()

    @property
    def answers(self) -> list[Answer]:
        """The answers that have come, with their cells: node and pod."""
        return self.asking.answers


def _job(each: Found, work: Work) -> Job:
    node = each.placement.node if each.placement else "-"

    async def make(client: AsyncClient, request_id: str) -> ReleaseResult:
        assert each.pod is not None
        assert each.placement is not None
        return await work(client, each.pod, each.placement, request_id)

    return Job(each.placement.target if each.placement else Pod(""), make, each.name, (node, each.name))


def act(cluster: Kubernetes, settings: KubeSettings, found: Sequence[Found], work: Work, *, bars: bool) -> ExitCode:
    """Make the requests, print what became of them, and say the exit code."""
    acting = Acting(found, work, Bars(len(found)) if bars and can_draw() else None)
    try:
        asyncio.run(acting.run(cluster, settings))
    except KeyboardInterrupt:
        if acting.asking.results:
            show(settings, acting)
        output.err(output.INTERRUPTED)
        return ExitCode.INTERRUPTED
    show(settings, acting)
    return exit_codes.worst(answer.code for answer in acting.answers)


def show(settings: KubeSettings, acting: Acting) -> None:
    """Print the answers."""
    found = acting.answers
    if not settings.is_table:
        data = [
            {**_pod_data(acting.found[at]), **answers.to_data(each)} for at, each in zip(sorted(acting.asking.results), found, strict=True)
        ]
        output.out(formats.dump({"results": data}, settings.output))
        return
    nodes = {answer.place[0] for answer in found}
    namespaces = {name.partition("/")[0] for answer in found if "/" in (name := answer.place[1])}
    shown: list[Answer] = []
    for answer in found:
        node, name = answer.place
        title = name.partition("/")[2] or name if len(namespaces) == 1 else name
        shown.append(
            Answer(answer.target, answer.result, title, (node, title) if len(nodes) > 1 or settings.output == "wide" else (title,))
        )
    places = ("NODE", "POD") if len(nodes) > 1 or settings.output == "wide" else ("POD",)
    output.out(*answers.table(shown, limit=answers.row_limit(), places=places))


def kill(arguments: dict[str, Any]) -> Work:
    """KillAndRelease of the pod."""

    async def work(client: AsyncClient, pod: PodObject, placement: Placement, request_id: str) -> ReleaseResult:
        del pod
        return await client.kill_and_release(placement.target, request_id=request_id, **_for(placement, arguments))

    return work


def release(arguments: dict[str, Any]) -> Work:
    """Release of the pod."""

    async def work(client: AsyncClient, pod: PodObject, placement: Placement, request_id: str) -> ReleaseResult:
        del pod
        return await client.release(placement.target, request_id=request_id, **_for(placement, arguments))

    return work


def delete(cluster: Kubernetes, settings: KubeSettings, arguments: dict[str, Any], grace_seconds: int | None) -> Work:
    """The API server is asked to delete the pod; what of it is dying then is released until nothing of it is left."""

    async def work(client: AsyncClient, pod: PodObject, placement: Placement, request_id: str) -> ReleaseResult:
        del request_id
        dry_run: bool = arguments["validate_only"]
        if dry_run:
            # Both must be allowed. What would come back is what a kill would give back.
            await asyncio.to_thread(cluster.delete, pod, settings.end(), grace_seconds=grace_seconds, dry_run=True)
            return await client.kill_and_release(placement.target, **_for(placement, arguments))
        # Before anything is deleted: is the agent there, and is it the right one?
        answering = (await client.get_node()).identity
        if placement.expected.boot_id and answering.boot_id != placement.expected.boot_id:
            raise NoAgent(f"the agent that answers is on {answering.name}, in another boot than {placement.node}", "try again")
        await asyncio.to_thread(cluster.delete, pod, settings.end(), grace_seconds=grace_seconds)
        grace = pod.grace_seconds if grace_seconds is None else grace_seconds
        patience = grace + arguments["timeout"].total_seconds()
        return await _release_until_gone(client, placement, arguments, time.monotonic() + patience)

    return work


async def _release_until_gone(client: AsyncClient, placement: Placement, arguments: dict[str, Any], end: float) -> ReleaseResult:
    """Release what dies, again and again: kubelet ends one container after the other. Raises NotDying for what never was told to die."""
    done: dict[Process, ProcessResult] = {}
    pause = _SHORTEST
    while True:
        try:
            result = await client.release(placement.target, **_for(placement, arguments))
            done |= {each.process: each for each in result.processes if each.outcome in _WELL and each.process not in done}
            if result.is_released or time.monotonic() >= end:
                others = tuple(each for each in result.processes if each.process not in done)
                return _sum(result, (*done.values(), *others))
        except errors.TargetNotFound:
            # Nothing of it is left: who has died by itself has given back what it held.
            return _sum(_gone(placement), tuple(done.values()))
        except errors.NotDying:
            if time.monotonic() >= end:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST)


def _sum(last: ReleaseResult, processes: tuple[ProcessResult, ...]) -> ReleaseResult:
    """The last result, with what those before it have released."""
    released = sum(each.released_bytes for each in processes)
    verdict = Verdict.RELEASED if last.verdict is Verdict.EXITED and released else last.verdict
    return replace(last, verdict=verdict, processes=processes, released_bytes=released)


def _for(placement: Placement, arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "node": placement.expected}


def _gone(placement: Placement) -> ReleaseResult:
    return ReleaseResult(Verdict.EXITED, 0, (), placement.expected, None, None, (), (), "", False)


def _pod_data(found: Found) -> dict[str, Any]:
    pod = found.pod
    if pod is None:
        return {"pod": None, "name": found.name}
    return {"pod": {"namespace": pod.namespace, "name": pod.name, "uid": pod.api_uid, "node": pod.node}, "name": found.name}
