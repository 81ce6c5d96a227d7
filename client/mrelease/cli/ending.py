"""How a command line ends: its exit code, and what went wrong in words, or as data where data was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import click

from mrelease import MreleaseError, _text, _trace
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.exit_codes import ExitCode


class HasOutput(Protocol):
    """Settings of a command line."""

    output: str


def run_to_its_end(group: click.Group, arguments: Sequence[str] | None, name: str, settings: HasOutput) -> int:
    """Run it with its ``settings``; ``name``: what it is called."""
    _trace.inherit(os.environ)
    try:
        # Without standalone mode the exit codes are ours.
        returned: Any = group.main(arguments, prog_name=name, standalone_mode=False, obj=settings)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        output.err(output.INTERRUPTED)
        return ExitCode.INTERRUPTED
    except MreleaseError as error:
        if settings.output in ("json", "yaml"):
            output.out(formats.dump({"error": formats.error_data(error)}, settings.output))
        else:
            output.err(f"{name}: {_text.printable(str(error))}")
        return exit_codes.of_error(error)
    return returned if isinstance(returned, int) else ExitCode.OK
