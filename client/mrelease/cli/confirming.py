"""Whether people mean so many."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mrelease import _text

# What a question names.
_NAMED = 5


def confirm_several(names: Sequence[str], verb: str, noun: str) -> None:
    """Several that nobody has named one by one: are they meant? One needs no question. Raises click.UsageError, click.Abort."""
    if len(names) < 2:
        return
    named = ", ".join(map(_text.printable, names[:_NAMED])) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"this would {verb} {len(names)} {noun} ({named}): give --yes, or look first with --dry-run")
    click.confirm(f"{verb} {len(names)} {noun} ({named})?", abort=True, err=True)
