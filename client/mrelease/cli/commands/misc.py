"""``mrelease demo``, ``mrelease version`` and ``mrelease completion``."""

from __future__ import annotations

import platform
from datetime import timedelta

import click
from click.shell_completion import get_completion_class

from mrelease._version import VERSION
from mrelease.cli import formats, output, params
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, common_options, pass_settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print data instead of bars.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=str), metavar="FILE", help="Write a picture too.")
@click.option("--size", "size_bytes", type=params.size, default="1GiB", show_default=True, help="Memory of each victim.")
@click.option("--limit", type=params.duration, default="20s", show_default=True, help="How long to watch each victim at most.")
@pass_settings
def demo(settings: Settings, as_json: bool, png: str | None, size_bytes: int, limit: timedelta) -> int:
    """Kill one starved process with kill(2) and one through an agent, side by side.

    Starts its own agent, victims and load, and ends them.
    """
    from mrelease.demo import run

    return run(size_bytes=size_bytes, limit_seconds=limit.total_seconds(), as_json=as_json or settings.output == "json", png=png)


@click.command()
@common_options
@pass_settings
def version(settings: Settings) -> ExitCode:
    """Print the versions of mrelease and of what it stands on. `mrelease node` has the agent's."""
    import grpc
    from google import protobuf

    versions = {"mrelease": VERSION, "grpcio": grpc.__version__, "protobuf": protobuf.__version__, "python": platform.python_version()}
    if settings.output == "table":
        others = ", ".join(f"{name} {number}" for name, number in versions.items() if name != "mrelease")
        output.out(f"mrelease {versions['mrelease']} ({others})")
    else:
        output.out(formats.dump(versions, settings.output))
    return ExitCode.OK


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> ExitCode:
    """Print the completion script of a shell.

    \b
    bash: eval "$(mrelease completion bash)"                        in ~/.bashrc
    zsh:  eval "$(mrelease completion zsh)"                         in ~/.zshrc
    fish: mrelease completion fish > ~/.config/fish/completions/mrelease.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # `source()` of bash asks the bash that is installed for its version; the script is for the one that reads it.
    script = kind(ctx.find_root().command, {}, "mrelease", "_MRELEASE_COMPLETE")
    output.out(script.source_template % script.source_vars())
    return ExitCode.OK
