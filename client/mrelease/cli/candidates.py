"""Candidates of a reclaim, in the order in which they may die: as options name them across kinds, and as files list them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from mrelease import Cgroup, Container, Pod, Target
from mrelease.cli import params

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_ORDER: Final = f"{__name__}.order"
_FROM: Final = "from_file"
_KINDS: Final[Mapping[str, Callable[[str], Target]]] = {"pid": params.process, "container": Container, "pod": Pod, "cgroup": Cgroup}
# Lines that are wrong of which so many are told.
_TOLD: Final = 5


class InOrder(click.Command):
    """A command that knows in which order its options were given: click keeps it within one option only."""

    def make_parser(self, ctx: click.Context) -> Any:
        """See click."""
        parser: Any = super().make_parser(ctx)  # its class has another name in each version of click
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            options, rest, order = parse(args)
            ctx.meta[_ORDER] = [parameter.name for parameter in order]
            return options, rest, order

        parser.parse_args = parse_args
        return parser


def candidate_options(command: CommandT) -> CommandT:
    """Add the options that ``candidates`` reads; the command is an ``InOrder``."""
    options = (
        click.option("--pid", multiple=True, metavar="PID[:INODE]", help="This process. Repeatable."),
        click.option("--container", multiple=True, metavar="ID", help="All processes of this container: 12 digits or more. Repeatable."),
        click.option("--pod", multiple=True, metavar="UID", help="All processes of this pod but its sandbox's. Repeatable."),
        click.option("--cgroup", multiple=True, metavar="PATH", help="All processes of this cgroup and below it. Repeatable."),
        click.option(
            "--from",
            _FROM,
            multiple=True,
            metavar="FILE",
            help="Those of a file, or - for stdin, one a line: `4711`, `4711:INODE`, `container:ID`, `pod:UID`, `cgroup:PATH`. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def candidates(ctx: click.Context, options: Mapping[str, Any]) -> list[Target]:
    """Every candidate once, in the order of the command line. Raises click.UsageError."""
    values = {name: iter(options[name]) for name in (*_KINDS, _FROM)}
    found: list[Target] = []
    for name in ctx.meta.get(_ORDER, ()):
        if name == _FROM:
            found += read(next(values[name]))
        elif name in _KINDS:
            found.append(_KINDS[name](next(values[name])))
    return list(dict.fromkeys(found))


def read(name: str) -> list[Target]:
    """The candidates that a file lists; ``-``: stdin. Raises click.UsageError naming the lines that are wrong."""
    try:
        text = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"--from {name}: {error.strerror}") from None
    lines = [_read(line) for line in text.splitlines()]
    wrong = [f"{name}, line {number}: {line}" for number, line in enumerate(lines, 1) if isinstance(line, str)]
    if wrong:
        more = [f"and {len(wrong) - _TOLD} more"] if len(wrong) > _TOLD else []
        raise click.UsageError("\n".join([*wrong[:_TOLD], *more]))
    found = [line for line in lines if line is not None and not isinstance(line, str)]
    if not found:
        raise click.UsageError(f"--from {name}: names no target")
    return found


def _read(line: bytes) -> Target | str | None:
    """The target of a line, None where it names none, or what is wrong with it."""
    try:
        text = line.decode().strip()
    except UnicodeDecodeError:
        return "is not UTF-8"
    if not text or text.startswith("#"):
        return None
    if text[0].isdigit():
        text = f"pid:{text}"
    kind, _, value = text.partition(":")
    try:
        if value and kind in _KINDS:
            return _KINDS[kind](value)
    except click.BadParameter as error:
        return error.message
    return f"{text!r} is no target: expected PID, PID:INODE, container:ID, pod:UID or cgroup:/path, and comments (#) on lines of their own"
