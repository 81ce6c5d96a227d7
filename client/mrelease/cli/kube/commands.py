"""``kubectl mrelease kill``, ``release`` and ``delete``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mrelease import Wait
from mrelease.cli import params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube import acting, pods
from mrelease.cli.kube.settings import KubeSettings, common_options, pass_settings
from mrelease.cli.request_options import kill_arguments, kill_options, request_arguments

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _options(command: CommandT) -> CommandT:
    options = (
        pods.pod_arguments,
        click.option("-y", "--yes", is_flag=True, help="Do not ask, also for several pods that a selector or workload names."),
        click.option(
            "--timeout",
            type=params.duration,
            default="10s",
            show_default=True,
            help="How long to wait for the memory of each pod: 500ms, 10s, 1m.",
        ),
        click.option("--reason", default="", metavar="TEXT", help="Why, for the agents' audit log."),
        click.option(
            "--boost",
            type=click.Choice(["none", "priority", "evacuation", "lift"]),
            help="How a victim may be given CPU time; none: not at all. Default: the agent chooses what works and is needed.",
        ),
        click.option("--dry-run", is_flag=True, help="Make every check and signal nothing: say who would die and what would come back."),
        common_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_options
@kill_options
@click.option(
    "--wait",
    type=click.Choice(["released", "exited"]),
    default="released",
    show_default=True,
    help="Wait until the memory is back, or also until the exit.",
)
@pass_settings
def kill(settings: KubeSettings, /, **options: Any) -> ExitCode:
    """Kill the processes of pods and make their memory come back now.

    The pod stays: kubelet starts its containers again as its restartPolicy says. `delete` takes the pod away too. Sandbox and shim are left
    alone. What was looked up is what dies: a new pod of the same name never does.

    \b
    kubectl mrelease kill trainer-0 -n ml
    kubectl mrelease kill trainer-0 -c sidecar --grace 5s
    kubectl mrelease kill -l app=batch,tier!=gold --dry-run
    kubectl mrelease kill deploy/web --yes
    """
    arguments = kill_arguments({**options, "node": None, "boot_id": None}) | {"wait": Wait[options["wait"].upper()]}
    return _run(settings, options, "kill", lambda _cluster: acting.kill(arguments))


@click.command()
@_options
@pass_settings
def release(settings: KubeSettings, /, **options: Any) -> ExitCode:
    """Release the memory of pods that terminate and still hold it.

    Signals nothing: what is alive is left alone. For pods that are Terminating for long, or whose process hangs in the kernel.

    \b
    kubectl mrelease release trainer-0 -n ml
    kubectl mrelease release -A -l job=nightly --yes
    """
    arguments = request_arguments({**options, "node": None, "boot_id": None})
    return _run(settings, options, "release", lambda _cluster: acting.release(arguments))


@click.command()
@_options
@click.option("--grace-period", type=click.IntRange(0), metavar="SECONDS", help="After SIGTERM, before SIGKILL. Default: the pod's own.")
@click.option("--now", is_flag=True, help="As --grace-period 1.")
@pass_settings
def delete(settings: KubeSettings, /, grace_period: int | None, now: bool, **options: Any) -> ExitCode:
    """Delete pods, and release the memory of what they leave dying.

    As `kubectl delete pod`: kubelet sends SIGTERM, and after the grace period SIGKILL. From then on the agent makes the memory come back.
    You need the right to delete pods. Exactly the pod that was looked up is deleted, never a new one of the same name.

    \b
    kubectl mrelease delete trainer-0 -n ml --now
    kubectl mrelease delete -l app=batch --dry-run
    """
    if now and grace_period is not None:
        raise click.UsageError("give one of --now and --grace-period")
    arguments = request_arguments({**options, "node": None, "boot_id": None})
    grace = 1 if now else grace_period
    return _run(settings, options, "delete", lambda cluster: acting.delete(cluster, settings, arguments, grace))


def _run(settings: KubeSettings, options: dict[str, Any], verb: str, work: Callable[[Any], acting.Work]) -> ExitCode:
    with settings.cluster() as cluster:
        asked = pods.wanted(options["names"], options["selector"], options["container"], settings.where(cluster))
        if verb == "delete" and options["container"]:
            raise click.UsageError("a container cannot be deleted, only its pod: `kill -c` kills it")
        found = pods.find(cluster, settings, asked)
        pods.confirm(found, asked, verb, yes=options["yes"], dry_run=options["dry_run"])
        return acting.act(cluster, settings, found, work(cluster), bars=verb != "delete" and not options["dry_run"])
