"""``mrelease kill`` and ``mrelease release``."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from mrelease import MreleaseError, ReleaseResult, Target, Wait, _text
from mrelease.cli import answers, exit_codes, formats, output, params
from mrelease.cli.answers import Answer
from mrelease.cli.asking import Asking, Job, request_of
from mrelease.cli.bars import Bars, can_draw
from mrelease.cli.confirming import confirm_several
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.references import References
from mrelease.cli.request_options import kill_arguments, kill_options, request_arguments, request_options
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.targets import references, selector_options, target_options, targets
from mrelease.cli.where import Where

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Operations that an interruption names.
_NAMED = 3


def _unary_options(command: CommandT) -> CommandT:
    options = (
        target_options,
        selector_options,
        click.option("-y", "--yes", is_flag=True, help="Do not ask, also where a reference names several targets."),
        click.option(
            "--wait",
            type=click.Choice(["released", "exited"]),
            default="released",
            show_default=True,
            help="Wait until the memory is back, or also until the exit.",
        ),
        click.option(
            "--request-id",
            metavar="ID",
            help="A name for the operation, for `mrelease watch`: the same command with it joins the operation or repeats its result.",
        ),
        click.option(
            "--resolve-timeout",
            type=params.duration,
            default="30s",
            show_default=True,
            help="How long an orchestrator may take to say where its references are, and to be told of it.",
        ),
        request_options,
        common_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_unary_options
@kill_options
@click.option(
    "--cancel",
    is_flag=True,
    help="Tell the orchestrator of a reference too, before and after: scancel, delete. Else it may start it again.",
)
@pass_settings
def kill(settings: Settings, /, cancel: bool, **options: Any) -> ExitCode:
    """Kill processes, containers, pods or cgroups and make their memory come back now.

    PID:INODE, as `mrelease ps` prints it, is one process for ever; a PID alone is whatever runs under that number now. A REFERENCE is what
    an orchestrator calls it: slurm://1234.0, k8s://namespace/pod, pid://node/4711. `mrelease plugins` lists whose are known.

    With --grace a signal comes first, and SIGKILL only to what has not ended by itself. On a terminal a bar shows the memory that is still
    held.
    """
    return _run(settings, options, Request(True, kill_arguments(options), cancel))


@click.command()
@_unary_options
@pass_settings
def release(settings: Settings, /, **options: Any) -> ExitCode:
    """Release the memory of processes, containers, pods or cgroups that someone else has killed.

    Signals nothing: what is alive is left alone. A REFERENCE is what an orchestrator calls it, as for `mrelease kill`.
    """
    return _run(settings, options, Request(False, request_arguments(options)))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of each target. ``arguments`` are those of the client's method; ``cancel``: orchestrators are told."""

    kill: bool
    arguments: dict[str, Any]
    cancel: bool = False

    @property
    def is_dry(self) -> bool:
        """Whether nothing is signalled, and nobody told."""
        return bool(self.arguments["validate_only"])


def _run(settings: Settings, options: dict[str, Any], request: Request) -> ExitCode:
    asked, refs = targets(options), references(options)
    if request.cancel and not refs:
        raise click.UsageError("--cancel tells the orchestrator of a reference: there is none")
    if options["request_id"] == "":
        # As of a variable that is not set: without an id nothing would be joined or repeated.
        raise click.UsageError("--request-id is empty: give an id, best a UUID")
    request.arguments["wait"] = Wait[options["wait"].upper()]
    if refs:
        _check_references(settings, options, asked)
    with References(refs, settings, options["resolve_timeout"].total_seconds()) as found:
        if refs:
            found.find()
            _confirm(found, request, yes=options["yes"])
        if options["request_id"] is not None and len(asked) + len(found.found) > 1:
            raise click.UsageError("--request-id names one operation: give one target")
        if request.cancel and not request.is_dry:
            found.before()
        jobs = [Job(target, request_of(target, kill=request.kill, arguments=request.arguments)) for target in asked]
        own = {name: value for name, value in request.arguments.items() if name != "node"}
        jobs += [found.job(each, request.kill, own) for each in found.found]
        asking = Asking(jobs, Bars(len(jobs)) if can_draw() else None, options["request_id"] or "", request.is_dry)
        return _ask(settings, asking, found, request)


def _check_references(settings: Settings, options: dict[str, Any], asked: Sequence[Target]) -> None:
    if settings.local:
        raise click.UsageError(
            "a reference says where its target is: --local is for what is named by a PID, --container, --pod or --cgroup"
        )
    if settings.agent is not None and not asked:
        raise click.UsageError(
            "a reference says where its target is: --agent is for PIDs; certificates are chosen by --context and --tls-..."
        )
    if options["node"] or options["boot_id"]:
        raise click.UsageError("a reference says its node: leave --node and --boot-id away")


def _confirm(found: References, request: Request, *, yes: bool) -> None:
    if request.cancel and (untold := found.without_cancel()):
        raise click.UsageError(f"{', '.join(untold)} has nothing to cancel by: leave --cancel away")
    if not (yes or request.is_dry):
        confirm_several(found.several(), "kill" if request.kill else "release", "targets")


def _ask(settings: Settings, asking: Asking, found: References, request: Request) -> ExitCode:
    first = len(asking.jobs) - len(found.found)
    with settings.where() if first else nullcontext() as where:
        try:
            asyncio.run(_requests(asking, found, where, first))
        except KeyboardInterrupt:
            if asking.results:
                _print(settings, asking, found)
            output.err(*_interrupted(settings, asking.open_ids if not found.found else ()))
            return ExitCode.INTERRUPTED
    told: list[MreleaseError] = []
    if request.cancel and not request.is_dry:
        told = found.after([asking.results[at] for at in range(first, len(asking.jobs))])
    _print(settings, asking, found)
    for error in told:
        output.err(f"mrelease: what became of it could not be told: {_text.printable(str(error))}")
    worst = exit_codes.worst(answer.code for answer in asking.answers)
    return ExitCode.INTERNAL if told and worst is ExitCode.OK else worst


async def _requests(asking: Asking, found: References, where: Where | None, first: int) -> None:
    async def here() -> None:
        if where is not None:
            async with where.async_client() as client:
                await asking.ask(client, range(first))

    try:
        await asyncio.gather(here(), found.ask(asking, first))
    finally:
        asking.close()


def _print(settings: Settings, asking: Asking, found: References) -> None:
    places: tuple[str, ...] = ()
    if not found.found:
        given = asking.answers
    else:
        given, places = _placed(asking, found), ("NODE",)
        if len({answer.title for answer in given}) > 1:
            given, places = [replace(answer, place=(*answer.place, answer.name)) for answer in given], ("NODE", "TARGET")
    if settings.output == "table":
        output.out(*answers.table(given, limit=answers.row_limit(), places=places))
        return
    data = [answers.to_data(answer) for answer in given]
    if found.found:
        first = len(asking.jobs) - len(found.found)
        refs = {at: each.ref.text for at, each in enumerate(found.found, first)}
        named = zip(sorted(asking.results), given, strict=True)
        said = [{"reference": refs.get(at), "node": answer.place[0], "name": answer.name} for at, answer in named]
        data = [{**names, **rest} for names, rest in zip(said, data, strict=True)]
    output.out(formats.dump({"results": data}, settings.output))


def _placed(asking: Asking, found: References) -> list[Answer]:
    """The answers with their nodes: as the orchestrator calls it, of a PID as the agent does."""
    first = len(asking.jobs) - len(found.found)
    given: list[Answer] = []
    for at, answer in zip(sorted(asking.results), asking.answers, strict=True):
        own = answer.result.node.name if isinstance(answer.result, ReleaseResult) else "-"
        node = found.found[at - first].node if at >= first else own
        given.append(replace(answer, place=(_text.printable(node),)))
    return given


def _interrupted(settings: Settings, ids: Sequence[str]) -> list[str]:
    lines = [output.INTERRUPTED]
    if ids and not settings.local:
        lines.append("look at it, and get its result:")
        lines += [f"  mrelease watch {settings.repeated()}{shlex.quote(request_id)}" for request_id in ids[:_NAMED]]
        if len(ids) > _NAMED:
            lines.append(f"  and {len(ids) - _NAMED} more")
    return lines
