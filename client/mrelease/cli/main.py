"""The command ``mrelease``: its commands, its help, and how a failure ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from mrelease import MreleaseError, _text
from mrelease._version import VERSION
from mrelease.cli import exit_codes, formats, output
from mrelease.cli.commands import misc, node, ps, reclaim, release, top, watch
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in exit_codes.MEANINGS.items())
_WORST = ", ".join(str(int(code)) for code in exit_codes.WORST_FIRST)


@click.group(
    epilog=f"{_EPILOG}\n\nWith several targets the worst one decides, in this order: {_WORST}.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(VERSION, message="mrelease %(version)s")
@common_options
def cli() -> None:
    """Kill what must die, make its memory come back now, and prove it."""


for _command in (
    *(release.kill, release.release, reclaim.reclaim, watch.watch, ps.ps, top.top, node.node, node.doctor),
    *(misc.demo, misc.version, misc.completion),
):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Prints what went wrong to stderr, never a traceback of what can be expected."""
    settings = Settings()
    try:
        # Without standalone mode the exit codes are ours.
        returned: Any = cli.main(arguments, prog_name="mrelease", standalone_mode=False, obj=settings)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        output.err(output.INTERRUPTED)
        return ExitCode.INTERRUPTED
    except MreleaseError as error:
        if settings.output == "table":
            output.err(f"mrelease: {_text.printable(str(error))}")
        else:
            output.out(formats.dump({"error": formats.error_data(error)}, settings.output))
        return exit_codes.of_error(error)
    return returned if isinstance(returned, int) else ExitCode.OK
