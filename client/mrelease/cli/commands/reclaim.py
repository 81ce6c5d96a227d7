"""``mrelease reclaim``."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import click

from mrelease import AgentError, NodeRef, PressureGoal, PressureKind, Target, _text
from mrelease.cli import answers, choosing, formats, output, params
from mrelease.cli.bars import can_draw
from mrelease.cli.candidates import InOrder, candidate_options, candidates
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.reclaimed import Goal, Reclaimed
from mrelease.cli.request_options import kill_arguments, kill_options, request_options
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.view import View
from mrelease.cli.where import Where

# A size with its unit: a number alone is a process.
_SIZE = re.compile(r"[0-9.]+ ?[A-Za-z]+")
_NOBODY = "--by finds no process that may be killed and would give memory back"


@click.command(cls=InOrder)
@click.argument("words", metavar="[SIZE] [PID[:INODE]]...", nargs=-1)
@click.option("--available", type=params.size, metavar="SIZE", help="Stop when so much memory of the node is available, instead of SIZE.")
@click.option(
    "--pressure",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="PERCENT",
    help="Stop when tasks wait for memory for less than so much of the time, instead of SIZE.",
)
@click.option("--pressure-kind", type=click.Choice(["some", "full"]), help="Whether some tasks wait, or all. Default: some.")
@click.option("--window", type=params.duration, help="How long to measure the pressure each time, 100ms to 10s. Default: 1s.")
@candidate_options
@click.option("--by", type=click.Choice(choosing.BY), help="Whoever holds most, or has the highest oom_score (only on this machine).")
@request_options
@kill_options
@click.option("--deadline", type=params.duration, help="How long the whole may take: then no further candidate is killed.")
@common_options
@pass_settings
@click.pass_context
def reclaim(ctx: click.Context, settings: Settings, /, words: tuple[str, ...], **options: Any) -> ExitCode:
    """Kill candidates one after the other, only as many as are needed.

    The next one dies only when what the last one held is proven back, or diagnosed as held, and nobody when the goal is met: SIZE (such as
    2GiB, always with a unit) proven back, --available, or --pressure.

    Candidates die in the order in which they are named, PIDs or --pid, --container, --pod, --cgroup and --from; PIDs without --pid cannot
    be mixed with the others. --by chooses them instead: every process that is not protected, but the caller and its ancestors. Who is
    not there any more, or protected, is passed over. --dry-run says who would die.

    Exit code 0: the goal is met. 8: it is not, and all that was killed is proven back: more candidates may help. 3: it is not, and memory
    of what was killed may still come back.
    """
    goal, processes = _read(words, options)
    named = candidates(ctx, options)
    if processes and named:
        raise click.UsageError("give every process by --pid where there are other candidates too: their order is the order of death")
    if options["by"] and (processes or named):
        raise click.UsageError("--by chooses the candidates: name none")
    arguments = kill_arguments(options) | {"deadline": options["deadline"]}
    with settings.where() as where:
        chosen = named or processes
        if options["by"]:
            with where.client() as client:
                chosen, there = choosing.choose(client, options["by"])
            arguments["node"] = _same_node(arguments["node"], there)
        if not chosen:
            raise click.UsageError(
                _NOBODY if options["by"] else "name candidates: PID, --pid, --container, --pod, --cgroup, --from or --by"
            )
        done = Reclaimed(chosen, goal, options["dry_run"])
        try:
            asyncio.run(_follow(where, done, arguments))
        except KeyboardInterrupt:
            _print(settings, done)
            output.err(f"{output.INTERRUPTED}, and no further candidate is killed")
            return ExitCode.INTERRUPTED
    _print(settings, done)
    return done.code


async def _follow(where: Where, done: Reclaimed, arguments: dict[str, Any]) -> None:
    view = View(done) if can_draw() else None
    goal = done.goal
    try:
        async with where.async_client() as client:
            events = client.reclaim(
                done.candidates,
                released_bytes=goal.released_bytes,
                available_bytes=goal.available_bytes,
                pressure_below=goal.pressure_below,
                **arguments,
            )
            async for event in events:
                done.add(event)
                if view is not None:
                    view.update()
    except AgentError as error:
        done.error = error
    finally:
        if view is not None:
            view.close()


def _read(words: tuple[str, ...], options: dict[str, Any]) -> tuple[Goal, list[Target]]:
    """The goal, and the processes that are named by position. Raises click.UsageError."""
    size = params.size(words[0]) if words and _SIZE.fullmatch(words[0]) else None
    processes: list[Target] = [params.process(word) for word in words[size is not None :]]
    given = [size, options["available"], options["pressure"]]
    if sum(goal is not None for goal in given) != 1:
        raise click.UsageError("say when to stop, by one of SIZE with its unit (2GiB), --available SIZE and --pressure PERCENT")
    if options["pressure"] is None:
        if options["pressure_kind"] or options["window"]:
            raise click.UsageError("--pressure-kind and --window belong to --pressure")
        return Goal(released_bytes=size, available_bytes=options["available"]), processes
    kind = PressureKind[(options["pressure_kind"] or "some").upper()]
    window = options["window"] if options["window"] is not None else timedelta(seconds=1)
    return Goal(pressure_below=PressureGoal(options["pressure"], kind, window)), processes


def _same_node(asked: NodeRef | None, listed: NodeRef) -> NodeRef:
    """The node on which the candidates were chosen, in that boot, unless the caller means another."""
    asked = asked or NodeRef()
    return NodeRef(asked.name or listed.name, asked.boot_id or listed.boot_id)


def _print(settings: Settings, done: Reclaimed) -> None:
    if settings.output != "table":
        output.out(formats.dump(done.to_data(), settings.output))
        return
    output.out(*done.lines(answers.row_limit()))
    if done.error is not None:
        output.err(f"mrelease: {_text.printable(str(done.error))}")
