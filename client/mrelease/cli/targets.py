"""What to kill, release or list, as options say it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

from mrelease import Cgroup, Container, Pod, Process, Target, _text
from mrelease._models import Group
from mrelease.cli import formats, params

if TYPE_CHECKING:
    from mrelease.resolvers import Reference

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def target_options(command: CommandT) -> CommandT:
    """Add the arguments that ``targets`` reads."""
    options = (
        click.argument("named", metavar="[PID[:INODE] | REFERENCE]...", nargs=-1, type=params.named),
        click.option("--in-container", metavar="ID", help="PIDs are those that processes of this container see: its first is 1."),
        click.option("--container", multiple=True, metavar="ID", help="All processes of this container: 12 digits or more. Repeatable."),
        click.option("--pod", multiple=True, metavar="UID", help="All processes of this pod but its sandbox's. Repeatable."),
        click.option("--pod-container", multiple=True, metavar="ID", help="Only this container of the one --pod. Repeatable."),
        click.option("--cgroup", multiple=True, metavar="PATH", help="All processes of this cgroup and below it. Repeatable."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def targets(options: dict[str, Any]) -> list[Target]:
    """Every target once: the same one twice would be killed by one request and missed by the other."""
    processes = _numbered(tuple(each for each in options["named"] if isinstance(each, Process)), options["in_container"])
    pods: tuple[str, ...] = options["pod"]
    only: tuple[str, ...] = options["pod_container"]
    if only and len(set(pods)) != 1:
        raise click.UsageError("--pod-container chooses containers of one pod: give exactly one --pod")
    found: list[Target] = [
        *processes,
        *map(Container, options["container"]),
        *(Pod(uid, tuple(dict.fromkeys(only))) for uid in pods),
        *map(Cgroup, options["cgroup"]),
    ]
    if not found and not references(options):
        raise click.UsageError("name what is meant: PID, a reference such as slurm://1234, --selector, --container, --pod or --cgroup")
    return list(dict.fromkeys(found))


def references(options: dict[str, Any]) -> list[Reference]:
    """The references among what is named, each once, and that of ``--selector``."""
    named = [each for each in options["named"] if not isinstance(each, Process)]
    if options.get("selector") is not None or options.get("namespace") is not None:
        named.append(_labelled(options["selector"], options["namespace"]))
    return list({each.text: each for each in named}.values())


def selector_options(command: CommandT) -> CommandT:
    """Add options that name the pods of a cluster by their labels; ``references`` reads them."""
    options = (
        click.option("-l", "--selector", metavar="SELECTOR", help="Pods of Kubernetes with these labels: app=x,tier!=y."),
        click.option("-n", "--namespace", metavar="NAME", help="Namespace of --selector. Default: that of the kubeconfig."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _labelled(selector: str | None, namespace: str | None) -> Reference:
    from mrelease.resolvers import Reference

    for option, text in (("--selector", selector), ("--namespace", namespace)):
        if text == "":
            raise click.UsageError(f"{option} is empty, as of a variable that is not set: it would mean every pod")
    if selector is None:
        raise click.UsageError("--namespace is of --selector: name a pod as k8s://NAMESPACE/POD")
    if namespace is None:
        from mrelease.resolvers.kubernetes import Kubernetes

        with Kubernetes() as cluster:
            namespace = cluster.namespace
    return Reference.parse(f"k8s://{quote(namespace, safe='')}?selector={quote(selector, safe='')}")


def _numbered(processes: tuple[Process, ...], container: str | None) -> list[Process]:
    if container is None:
        return list(processes)
    # As of a variable that is not set: the same number on the node is another process.
    if not container:
        raise click.UsageError("--in-container is empty: give the container's id")
    if not processes:
        raise click.UsageError("--in-container says whose numbers the PIDs are: give a PID, or --container ID for all of its processes")
    return [replace(process, container_id=container) for process in processes]


def name_of(target: Target) -> str:
    """A target in one word or two."""
    match target:
        case Process(pid, container_id=""):
            return str(pid)
        case _:
            return _text.printable(str(target))


def target_data(target: Target) -> dict[str, Any]:
    """A target for ``-o json``: a ``Target`` of the contract."""
    return {type(target).__name__.lower(): formats.to_data(target)}


def group_options(command: CommandT) -> CommandT:
    """Add the arguments that ``group`` reads."""
    options = (
        click.option("--container", metavar="ID", help="Only processes of this container: 12 digits or more."),
        click.option("--pod", metavar="UID", help="Only processes of this pod."),
        click.option("--cgroup", metavar="PATH", help="Only processes of this cgroup and below it."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def group(options: dict[str, str | None]) -> Group | None:
    """The one group that is meant; None: the whole node."""
    kinds: dict[str, Callable[[str], Group]] = {"container": Container, "pod": Pod, "cgroup": Cgroup}
    # An empty text, as of an unset variable, is for the agent to refuse: it is not the whole node.
    named = [kinds[name](text) for name, text in options.items() if text is not None]
    if len(named) > 1:
        raise click.UsageError("give one of --container, --pod and --cgroup")
    return named[0] if named else None
