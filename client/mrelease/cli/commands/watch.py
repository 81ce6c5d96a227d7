"""``mrelease watch``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import click

from mrelease import MreleaseError, ReleaseProgress, ReleaseResult, _text
from mrelease.cli import answers, exit_codes, formats, output, params
from mrelease.cli.bars import Bars, can_draw
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings


@click.command()
@click.argument("request_id", metavar="REQUEST_ID")
@click.option("--interval", type=params.duration, default="200ms", show_default=True, help="Pause between two looks, 10ms to 1m.")
@common_options
@pass_settings
def watch(settings: Settings, /, request_id: str, interval: timedelta) -> ExitCode:
    """Follow an operation by its request id, to its result.

    On a terminal a bar shows the memory that is still held; elsewhere there is one line for each change, with `-o json` one object a line.
    Attaches to a finished operation, too, as long as the agent keeps its result. The exit code is that of the operation.
    """
    as_table = settings.output == "table"
    try:
        with settings.where() as where, where.client() as client:
            news = client.watch_release(request_id, interval=interval)
            result = _show(news, _text.printable(request_id)) if as_table else _stream(news, settings.output)
    except MreleaseError as error:
        if as_table:
            raise
        output.out(formats.dump_one({"error": formats.error_data(error)}, settings.output))
        return exit_codes.of_error(error)
    if result is None:
        output.err("mrelease: the agent ended the stream without a result")
        return ExitCode.INTERNAL
    if as_table:
        output.out(*answers.result_table(result, limit=answers.row_limit()))
    return exit_codes.of_result(result)


def _show(news: Iterator[ReleaseProgress | ReleaseResult], name: str) -> ReleaseResult | None:
    bars = Bars(1) if can_draw() else None
    try:
        for event in _changes(news):
            if isinstance(event, ReleaseResult):
                return event
            if bars is not None:
                bars.show(name, name, event)
            else:
                output.out(str(event))
    finally:
        if bars is not None:
            bars.close()
    return None


def _stream(news: Iterator[ReleaseProgress | ReleaseResult], form: str) -> ReleaseResult | None:
    for event in _changes(news):
        ended = isinstance(event, ReleaseResult)
        data = formats.to_data(event)
        output.out(formats.dump_one({"progress": None if ended else data, "result": data if ended else None}, form))
        if isinstance(event, ReleaseResult):
            return event
    return None


def _changes(news: Iterator[ReleaseProgress | ReleaseResult]) -> Iterator[ReleaseProgress | ReleaseResult]:
    """What differs from the last but for the time."""
    last: ReleaseProgress | None = None
    for event in news:
        if isinstance(event, ReleaseResult):
            yield event
            return
        if last is None or replace(event, elapsed_duration=last.elapsed_duration) != last:
            yield event
            last = event
