"""``mrelease top``."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from mrelease import Cgroup, Container, _text
from mrelease.cli import formats, output, params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.cli.where import Where

if TYPE_CHECKING:
    from mrelease.cli.top.source import Query


@click.command()
@click.option("--interval", type=params.duration, default="1s", show_default=True, help="Time between two samples, 100ms to 1h.")
@click.option("--container", metavar="ID", help="Watch this container too, and list its processes alone.")
@click.option("--cgroup", metavar="PATH", help="Watch this cgroup too, and list the processes in it and below it alone.")
@click.option("-n", "--limit", type=click.IntRange(min=1, max=1000), default=100, show_default=True, help="How many processes at most.")
@click.option("--once", is_flag=True, help="Print one sample and end.")
@common_options
@pass_settings
def top(settings: Settings, /, interval: timedelta, limit: int, once: bool, **named: str | None) -> ExitCode:
    """Watch the node's memory, its memory pressure and the processes whose death gives most memory back; kill one of them.

    \b
    up, down     choose a process
    k, Delete    kill it: the agent is asked what would come back, then you are
    s, r         sort by the next column, reverse the order; a click on a title does it too
    /, Escape    show only what has these words; show all
    q            quit

    Without a terminal, or with --once, it prints one table. -o json and -o yaml print a sample at each interval until they are stopped, one
    JSON object a line: `sample` as WatchMemory has it, `processes` as ListProcesses has them (null where the last list is less than a
    second old).
    """
    from mrelease.cli.top.source import Query

    query = Query(interval, _within(named), limit)
    with settings.where() as where:
        if settings.output != "table":
            return _stream(where, query, settings.output, once=once)
        if once or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
            asyncio.run(_table(where, query))
            return ExitCode.OK
        return _full_screen(where, query)


def _within(named: dict[str, str | None]) -> Container | Cgroup | None:
    container, cgroup = named["container"], named["cgroup"]
    if container is not None and cgroup is not None:
        raise click.UsageError("give one of --container and --cgroup")
    # An empty text, as of an unset variable, is for the agent to refuse: it is not the whole node.
    return Container(container) if container is not None else Cgroup(cgroup) if cgroup is not None else None


def _full_screen(where: Where, query: Query) -> ExitCode:
    try:
        from mrelease.cli.top.app import TopApp
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise click.UsageError("the full screen needs textual: pip install 'mrelease[cli]', or use --once") from None
    ended = TopApp(where, query).run()
    if ended is not None:
        raise ended
    return ExitCode.OK


async def _table(where: Where, query: Query) -> None:
    from mrelease.cli.top import gauges, rows, source

    async with where.async_client() as client, aclosing(source.snapshots(client, query)) as found:
        snapshot = await anext(found)
    assert snapshot.processes is not None
    said = gauges.words(snapshot.sample)
    if snapshot.sample.node is not None:
        said = [("node", _text.printable(snapshot.sample.node.name)), *said]
    output.out(*("  ".join(line) for line in _text.table(said)), "")
    infos = rows.arranged(snapshot.processes, rows.RECLAIMABLE)
    # Columns in which no process has anything are left out.
    used = [n for n, column in enumerate(rows.COLUMNS) if column.needed or any(column.cell(info) not in ("", "-") for info in infos)]
    header = ("PID:INODE", *(column.title for column in rows.COLUMNS[1:]))
    table = [header, *((str(info.process), *rows.cells(info)[1:]) for info in infos)]
    right = [at for at, n in enumerate(used) if rows.COLUMNS[n].right and n]
    output.out(*output.columns([[row[n] for n in used] for row in table], right=right))


def _stream(where: Where, query: Query, kind: str, *, once: bool) -> ExitCode:
    try:
        asyncio.run(_data(where, query, kind, once=once))
    except KeyboardInterrupt:
        # That is how it is meant to end.
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK


async def _data(where: Where, query: Query, kind: str, *, once: bool) -> None:
    from mrelease.cli.top import source

    async with where.async_client() as client, aclosing(source.snapshots(client, query)) as found:
        async for snapshot in found:
            data: dict[str, Any] = {
                "sample": formats.to_data(snapshot.sample),
                "processes": None if snapshot.processes is None else formats.to_data(snapshot.processes.processes),
            }
            sys.stdout.write(f"{json.dumps(data)}\n" if kind == "json" else f"---\n{formats.dump(data, kind)}\n")
            sys.stdout.flush()
            if once:
                return
