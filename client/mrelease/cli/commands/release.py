"""``mrelease kill`` and ``mrelease release``."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from mrelease import Target, Wait
from mrelease.cli import answers, exit_codes, formats, output
from mrelease.cli.asking import Asking, Request
from mrelease.cli.bars import Bars, can_draw
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.request_options import kill_arguments, kill_options, request_arguments, request_options
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.targets import target_options, targets

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Operations that an interruption names.
_NAMED = 3


def _unary_options(command: CommandT) -> CommandT:
    options = (
        target_options,
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
        request_options,
        common_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_unary_options
@kill_options
@pass_settings
def kill(settings: Settings, /, **options: Any) -> ExitCode:
    """Kill processes, containers, pods or cgroups and make their memory come back now.

    PID:INODE, as `mrelease ps` prints it, is one process for ever; a PID alone is whatever runs under that number now. With --grace a
    signal comes first, and SIGKILL only to what has not ended by itself. On a terminal a bar shows the memory that is still held.
    """
    return _run(settings, options, Request(kill=True, arguments=kill_arguments(options), request_id=options["request_id"] or ""))


@click.command()
@_unary_options
@pass_settings
def release(settings: Settings, /, **options: Any) -> ExitCode:
    """Release the memory of processes, containers, pods or cgroups that someone else has killed.

    Signals nothing: what is alive is left alone.
    """
    return _run(settings, options, Request(kill=False, arguments=request_arguments(options), request_id=options["request_id"] or ""))


def _run(settings: Settings, options: dict[str, Any], request: Request) -> ExitCode:
    asked = targets(options)
    if options["request_id"] is not None:
        _check_request_id(options["request_id"], asked)
    request.arguments["wait"] = Wait[options["wait"].upper()]
    asking = Asking(asked, request, Bars(len(asked)) if can_draw() else None)
    with settings.where() as where:
        try:
            asyncio.run(asking.run(where))
        except KeyboardInterrupt:
            if asking.answers:
                _print(settings, asking)
            output.err(*_interrupted(settings, asking.open_ids))
            return ExitCode.INTERRUPTED
    _print(settings, asking)
    return exit_codes.worst(answer.code for answer in asking.given)


def _check_request_id(request_id: str, asked: Sequence[Target]) -> None:
    # As of a variable that is not set: without an id nothing would be joined or repeated.
    if not request_id:
        raise click.UsageError("--request-id is empty: give an id, best a UUID")
    if len(asked) > 1:
        raise click.UsageError("--request-id names one operation: give one target")


def _print(settings: Settings, asking: Asking) -> None:
    if settings.output == "table":
        output.out(*answers.table(asking.given, limit=answers.row_limit()))
    else:
        output.out(formats.dump({"results": [answers.to_data(answer) for answer in asking.given]}, settings.output))


def _interrupted(settings: Settings, ids: Sequence[str]) -> list[str]:
    lines = [output.INTERRUPTED]
    if ids and not settings.local:
        lines.append("look at it, and get its result:")
        lines += [f"  mrelease watch {settings.repeated()}{shlex.quote(request_id)}" for request_id in ids[:_NAMED]]
        if len(ids) > _NAMED:
            lines.append(f"  and {len(ids) - _NAMED} more")
    return lines
