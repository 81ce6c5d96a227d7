"""``mrelease kill`` and ``mrelease release``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click

from mrelease import AsyncClient, MreleaseError, NodeRef, ReleaseResult, Target, Wait
from mrelease.cli import answers, exit_codes, formats, output, params
from mrelease.cli.answers import Answer
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.targets import target_options, targets

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Requests under way at once: an agent has more threads than that, and a terminal fewer lines.
_CONCURRENCY = 64
# Rows that a terminal is given: a container may have thousands of processes.
_ROWS = 50


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of each target."""

    kill: bool
    wait: Wait
    timeout: timedelta
    reason: str
    dry_run: bool
    node: NodeRef | None
    reap_delay: timedelta | None = None

    async def make(self, client: AsyncClient, target: Target) -> ReleaseResult:
        """Ask it of one target."""
        if self.kill:
            return await client.kill_and_release(
                target,
                node=self.node,
                wait=self.wait,
                timeout=self.timeout,
                reap_delay=self.reap_delay,
                reason=self.reason,
                validate_only=self.dry_run,
            )
        return await client.release(
            target, node=self.node, wait=self.wait, timeout=self.timeout, reason=self.reason, validate_only=self.dry_run
        )


def _request_options(command: CommandT) -> CommandT:
    options = (
        target_options,
        click.option(
            "--wait",
            type=click.Choice(["released", "exited"]),
            default="released",
            show_default=True,
            help="Wait until the memory is back, or also until the exit.",
        ),
        click.option("--timeout", type=params.duration, default="10s", show_default=True, help="How long to wait: 500ms, 10s, 1m."),
        click.option("--reason", default="", metavar="TEXT", help="Why, for the agent's log."),
        click.option("--node", metavar="NAME", help="Do nothing unless this node answers."),
        click.option("--boot-id", metavar="ID", help="Do nothing unless the node runs in this boot."),
        click.option("--dry-run", is_flag=True, help="Make every check and signal nothing."),
        common_options,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_request_options
@click.option("--reap-delay", type=params.duration, help="How long the victim may exit by itself before its memory is taken, 0s to 1s.")
@pass_settings
def kill(settings: Settings, /, reap_delay: timedelta | None, **options: Any) -> ExitCode:
    """Kill processes, containers, pods or cgroups and make their memory come back now.

    PID:INODE, as `mrelease ps` prints it, is one process for ever; a PID alone is whatever runs under that number now.
    """
    return _run(settings, targets(options), _request(options, kill=True, reap_delay=reap_delay))


@click.command()
@_request_options
@pass_settings
def release(settings: Settings, /, **options: Any) -> ExitCode:
    """Release the memory of processes, containers, pods or cgroups that someone else has killed.

    Signals nothing: what is alive is left alone.
    """
    return _run(settings, targets(options), _request(options, kill=False))


def _request(options: dict[str, Any], *, kill: bool, reap_delay: timedelta | None = None) -> Request:
    named = options["node"] or options["boot_id"]
    return Request(
        kill=kill,
        wait=Wait[options["wait"].upper()],
        timeout=options["timeout"],
        reason=options["reason"],
        dry_run=options["dry_run"],
        node=NodeRef(options["node"] or "", options["boot_id"] or "") if named else None,
        reap_delay=reap_delay,
    )


def _run(settings: Settings, asked: list[Target], request: Request) -> ExitCode:
    with settings.address() as address:
        given = asyncio.run(_ask(address, asked, request))
    if settings.output == "table":
        output.out(*answers.table(given, limit=_ROWS if sys.stdout.isatty() else None))
    else:
        output.out(formats.dump({"results": [answers.to_data(answer) for answer in given]}, settings.output))
    return exit_codes.worst(answer.code for answer in given)


async def _ask(address: str | None, asked: list[Target], request: Request) -> list[Answer]:
    slots = asyncio.Semaphore(_CONCURRENCY)
    async with AsyncClient(address) as client:

        async def ask(target: Target) -> Answer:
            async with slots:
                try:
                    return Answer(target, await request.make(client, target))
                except MreleaseError as error:
                    return Answer(target, error)

        return list(await asyncio.gather(*map(ask, asked)))
