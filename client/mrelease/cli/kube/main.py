"""The command ``kubectl mrelease``: its commands, its help, and how a failure ends."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mrelease._version import VERSION
from mrelease.cli import exit_codes
from mrelease.cli.ending import run_to_its_end
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.kube import commands, doctor, looking, reclaiming
from mrelease.cli.kube.settings import KubeSettings, common_options

_MEANINGS = {
    **exit_codes.MEANINGS,
    ExitCode.REFUSED: "the agent does not kill or release this target, or the API server does not let you; nothing was signalled",
    ExitCode.NOT_FOUND: "no such pod, container or node, or another one has its name now, or it is on no node",
    ExitCode.UNREACHABLE: "the API server or an agent does not answer, or has no capacity now; nothing was signalled",
}
_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in _MEANINGS.items())
_WORST = ", ".join(str(int(code)) for code in exit_codes.WORST_FIRST)


@click.group(
    epilog=f"{_EPILOG}\n\nWith several pods or nodes the worst one decides, in this order: {_WORST}.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(VERSION, message="mrelease %(version)s")
@common_options
def kube() -> None:
    """Kill pods, make their memory come back now, and prove it.

    Asks the agent of the pod's node, through the API server: the Helm chart puts one on every node.

    \b
    kubectl mrelease kill trainer-0 -n ml           kill, and release what it held
    kubectl mrelease release trainer-0 -n ml        release what already terminates, and signal nothing
    kubectl mrelease delete -l app=batch --yes      delete, and release what is left dying
    kubectl mrelease top pods -A                    what would come back
    kubectl mrelease doctor                         is an agent on every node, and does it work
    """


for _command in (
    *(commands.kill, commands.release, commands.delete, reclaiming.reclaim),
    *(looking.top, looking.ps, looking.watch, doctor.doctor),
):
    kube.add_command(_command)


def run(arguments: Sequence[str] | None = None, name: str = "kubectl mrelease") -> int:
    """Run the command line and return its exit code. Prints what went wrong to stderr, never a traceback of what can be expected."""
    return run_to_its_end(kube, arguments, name, KubeSettings())
