"""``mrelease kill`` and ``mrelease release``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click
from rich.text import Text

from mrelease import AsyncClient, MreleaseError, NodeRef, Process, ReleaseResult, Wait, _report, _text, errors
from mrelease.cli import exit_codes, formats, output, params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Requests under way at once: an agent has more threads than that, and a terminal fewer lines.
_CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one argument: a result or an error."""

    target: Process
    result: ReleaseResult | MreleaseError

    @property
    def code(self) -> ExitCode:
        """Its exit code."""
        return exit_codes.of_error(self.result) if isinstance(self.result, MreleaseError) else exit_codes.of_result(self.result)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of each process."""

    kill: bool
    wait: Wait
    timeout: timedelta
    reason: str
    dry_run: bool
    node: NodeRef | None
    reap_delay: timedelta | None = None

    async def make(self, client: AsyncClient, target: Process) -> ReleaseResult:
        """Ask it of one process."""
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
        click.argument("processes", metavar="PID[:INODE]...", nargs=-1, required=True, type=params.process),
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
    """Kill processes and make their memory come back now.

    PID:INODE, as `mrelease ps` prints it, is one process for ever; a PID alone is whatever runs under that number now.
    """
    return _run(settings, options["processes"], _request(options, kill=True, reap_delay=reap_delay))


@click.command()
@_request_options
@pass_settings
def release(settings: Settings, /, **options: Any) -> ExitCode:
    """Release the memory of processes that someone else has killed.

    Signals nothing: a process that is alive is refused.
    """
    return _run(settings, options["processes"], _request(options, kill=False))


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


def _run(settings: Settings, processes: tuple[Process, ...], request: Request) -> ExitCode:
    # The same process twice would be killed by one request and missed by the other.
    targets = list(dict.fromkeys(processes))
    with settings.address() as address:
        answers = asyncio.run(_ask(address, targets, request))
    if settings.output == "table":
        _print_table(answers)
    else:
        output.out(formats.dump({"results": [_data(answer) for answer in answers]}, settings.output))
    return exit_codes.worst(answer.code for answer in answers)


async def _ask(address: str | None, targets: list[Process], request: Request) -> list[Answer]:
    slots = asyncio.Semaphore(_CONCURRENCY)
    async with AsyncClient(address) as client:

        async def ask(target: Process) -> Answer:
            async with slots:
                try:
                    return Answer(target, await request.make(client, target))
                except MreleaseError as error:
                    return Answer(target, error)

        return list(await asyncio.gather(*map(ask, targets)))


def _data(answer: Answer) -> dict[str, Any]:
    failed = isinstance(answer.result, MreleaseError)
    return {
        "target": {"process": formats.to_data(answer.target)},
        "result": None if failed else formats.to_data(answer.result),
        "error": formats.error_data(answer.result) if isinstance(answer.result, MreleaseError) else None,
    }


def _print_table(answers: list[Answer]) -> None:
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    released = [process for answer in answers if isinstance(answer.result, ReleaseResult) for process in answer.result.processes]
    for answer in answers:
        if isinstance(answer.result, ReleaseResult):
            rows += map(_report.cells, answer.result.processes)
        else:
            rows.append((str(answer.target.pid), "-", _word(answer.result), "-", "-", "-"))
    # One line where all failed alike, as with an agent that is not there.
    said: dict[str, list[str]] = {}
    for answer in answers:
        if isinstance(answer.result, ReleaseResult):
            notes += [line for process in answer.result.processes for line in _report.notes(process)]
        else:
            said.setdefault(_text.printable(str(answer.result)), []).append(str(answer.target.pid))
    notes += [f"{', '.join(pids)}: {message}" for message, pids in said.items()]
    lines = output.columns([_report.HEADER, *rows], right=_report.RIGHT, coloured=_report.VERDICT)
    if len(rows) > 1:
        lines.append(Text(_report.total(released)))
    output.out(*lines, *notes)


def _word(error: MreleaseError) -> str:
    if isinstance(error, errors.AgentError) and error.reason:
        return _text.printable(error.reason)
    return formats.snake(type(error).__name__)
