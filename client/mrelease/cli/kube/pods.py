"""Which pods a command means, as kubectl's users name them, and whether they really mean so many."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from mrelease.cli.confirming import confirm_several
from mrelease.cli.kube import completing
from mrelease.cli.kube.settings import KubeSettings
from mrelease.errors import MreleaseError, ResolutionError
from mrelease.resolvers import Placement
from mrelease.resolvers.kubernetes import Kubernetes, PodObject, Wanted, workload

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """One pod that is meant, with where it is; or a name, and why there is nothing of it."""

    pod: PodObject | None
    placement: Placement | None
    name: str
    error: MreleaseError | None = None


def pod_arguments(command: CommandT) -> CommandT:
    """Add the arguments that ``find`` reads."""
    options = (
        click.argument("names", metavar="[POD | KIND/NAME]...", nargs=-1, shell_complete=completing.pod_names),
        click.option("-l", "--selector", metavar="SELECTOR", help="Pods with these labels: app=x,tier!=y."),
        click.option("-c", "--container", metavar="NAME", help="Only this container of each pod."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def wanted(names: Sequence[str], selector: str | None, container: str | None, namespace: str) -> list[Wanted]:
    """What the arguments say. Raises click.UsageError, InvalidReference."""
    for option, text in (("--selector", selector), ("--container", container)):
        if text == "":
            raise click.UsageError(f"{option} is empty, as of a variable that is not set: it would mean every one")
    if names and selector is not None:
        raise click.UsageError("name pods, or choose them by --selector")
    if names and not namespace:
        raise click.UsageError("a pod of this name may be in several namespaces: give --namespace instead of --all-namespaces")
    if selector is not None:
        found = [Wanted(namespace, selector=selector, container=container or "")]
    else:
        found = [_named(name, namespace, container or "") for name in dict.fromkeys(names)]
    if not found:
        raise click.UsageError("name what is meant: POD, KIND/NAME (deploy/web) or --selector")
    for each in found:
        each.check()
    return found


def _named(name: str, namespace: str, container: str) -> Wanted:
    kind, slash, rest = name.partition("/")
    if not slash or kind.lower() in ("pod", "pods", "po"):
        # As of a variable that is not set.
        if not (rest if slash else kind):
            raise click.UsageError("the name of a pod is empty")
        return Wanted(namespace, pod=rest if slash else kind, container=container)
    found = workload(kind, rest)
    if found is None or not rest:
        raise click.UsageError(f"{name!r}: expected POD, or a name of deploy/, sts/, ds/, job/ or rs/")
    return Wanted(namespace, workload=found, container=container)


def find(cluster: Kubernetes, settings: KubeSettings, asked: Sequence[Wanted]) -> list[Found]:
    """The pods, each once. What is wrong with one name does not keep the others; raises ResolutionError where it is so of all."""
    found: list[Found] = []
    seen: set[tuple[str, str]] = set()
    errors: list[ResolutionError] = []
    for each in asked:
        pods = _pods(cluster, settings, each)
        if isinstance(pods, ResolutionError):
            errors.append(pods)
            found.append(Found(None, None, each.pod or "/".join(each.workload or ()) or each.selector, pods))
            continue
        new = [pod for pod in pods if (pod.api_uid, each.container) not in seen]
        seen |= {(pod.api_uid, each.container) for pod in new}
        placements = cluster.place(new, settings.end(), each.container)
        found += [Found(pod, place, place.title) for pod, place in zip(new, placements, strict=True)]
    if errors and len(errors) == len(asked):
        raise errors[0]
    return found


def confirm(found: Sequence[Found], asked: Sequence[Wanted], verb: str, *, yes: bool, dry_run: bool) -> None:
    """Several pods that nobody has named one by one: are they meant? Raises click.UsageError, click.Abort."""
    if yes or dry_run or all(each.pod for each in asked):
        return
    confirm_several([each.name for each in found if each.pod is not None], verb, "pods")


def _pods(cluster: Kubernetes, settings: KubeSettings, wanted: Wanted) -> list[PodObject] | ResolutionError:
    try:
        return cluster.find(wanted, settings.end())
    except ResolutionError as error:
        return error
