"""``mrelease plugins``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import click

from mrelease import _text, errors
from mrelease._address import VARIABLE, default_socket
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.plugins import Row, finders, kinds, resolvers
from mrelease.cli.settings import Settings, common_options, pass_settings
from mrelease.errors import MreleaseError

_HEADER = ("KIND", "NAME", "STATE", "FROM", "WHY")


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@common_options
@pass_settings
def plugins(settings: Settings, names: tuple[str, ...]) -> ExitCode:
    """List what targets and agents can be found by, what works of it, and why the rest does not.

    Kinds: `resolver`, by the scheme of its references (slurm://); `address`, what finds the agents of nodes, in the order in which they are
    asked; `target`, what the plugins of the agent find on its node, where there is an agent. States: `ok`; `off`, nothing here is set up
    for it; `missing`, a library is not installed; `broken`, a defect.

    Exit code 0; 7 where one is broken, or one of those that are named is not ok; 5 for a name that nobody has.
    """
    rows: list[Row] = [*resolvers(), *finders()]
    failure: MreleaseError | None = None
    try:
        rows += _of_agent(settings)
    except MreleaseError as error:
        failure = error
    if names:
        rows = [row for row in rows if names and (row.name in names or row.name.removesuffix("://") in names)]
    if settings.output == "table":
        output.out(*output.columns([_HEADER, *(row.cells() for row in rows)], coloured=2))
        if failure is not None:
            output.err(f"mrelease: the agent's own plugins are not known: {_text.printable(str(failure))}")
    else:
        data = {
            "plugins": [dataclasses.asdict(row) for row in rows],
            "agent_error": None if failure is None else formats.error_data(failure),
        }
        output.out(formats.dump(data, settings.output))
    return _code(names, rows, failure)


def _code(names: tuple[str, ...], rows: list[Row], failure: MreleaseError | None) -> ExitCode:
    if names:
        found = {row.name for row in rows} | {row.name.removesuffix("://") for row in rows}
        if unknown := [name for name in names if name not in found]:
            output.err(f"mrelease: there is no plugin {', '.join(map(_text.printable, unknown))}")
            return ExitCode.NOT_FOUND
        return ExitCode.OK if all(row.state == "ok" for row in rows) else ExitCode.INCAPABLE
    if any(row.is_broken for row in rows):
        return ExitCode.INCAPABLE
    return ExitCode.OK if failure is None else exit_codes.of_error(failure)


def _of_agent(settings: Settings) -> Iterator[Row]:
    """What its agent says, where one was named or there is a socket."""
    named = settings.local or settings.agent is not None or settings.context is not None or VARIABLE in os.environ
    if not named and not Path(default_socket()).is_socket():
        return
    try:
        with settings.where() as where, where.client() as client:
            node = client.get_node()
    except errors.Unreachable:
        if named:
            raise
        return
    yield from kinds(node)
