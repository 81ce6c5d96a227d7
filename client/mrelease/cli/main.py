"""The command ``mrelease``: its commands, its help, and how a failure ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mrelease._version import VERSION
from mrelease.cli import exit_codes
from mrelease.cli.commands import audit, certs, context, fleet, misc, node, plugins, policy, ps, reclaim, release, top, watch
from mrelease.cli.ending import run_to_its_end
from mrelease.cli.settings import Settings, common_options

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in exit_codes.MEANINGS.items())
_WORST = ", ".join(str(int(code)) for code in exit_codes.WORST_FIRST)

_KUBERNETES = "--kubernetes"


def _not_here(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        raise click.UsageError("--kubernetes is the first word: mrelease --kubernetes kill POD")


@click.group(
    epilog=f"{_EPILOG}\n\nWith several targets the worst one decides, in this order: {_WORST}.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(VERSION, message="mrelease %(version)s")
@click.option(
    _KUBERNETES,
    is_flag=True,
    expose_value=False,
    callback=_not_here,
    help="As the first word: pods and nodes of a cluster, as `kubectl mrelease`. See `mrelease --kubernetes --help`.",
)
@common_options
def cli() -> None:
    """Kill what must die, make its memory come back now, and prove it."""


for _command in (
    *(release.kill, release.release, reclaim.reclaim, watch.watch, ps.ps, top.top, node.node, node.doctor, fleet.fleet),
    *(context.context, certs.certs, policy.policy, audit.audit, plugins.plugins, misc.demo, misc.version, misc.completion),
):
    cli.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Prints what went wrong to stderr, never a traceback of what can be expected."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] == _KUBERNETES:
        from mrelease.cli.kube import main as kube

        return kube.run(words[1:], f"mrelease {_KUBERNETES}")
    return run_to_its_end(cli, words, "mrelease", Settings())
