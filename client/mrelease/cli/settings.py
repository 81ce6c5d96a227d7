"""Options that every command takes, before or after its name."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """What the common options say."""

    agent: str | None = None
    output: str = "table"
    local: bool = False

    @contextmanager
    def address(self) -> Generator[str | None]:
        """Address of the agent for a client; with ``--local`` of one that lives as long as the block."""
        if not self.local:
            yield self.agent
            return
        try:
            from mrelease_agent.local import local_agent
        except ModuleNotFoundError as error:
            raise click.UsageError(f"--local needs {error.name}: pip install 'mrelease[agent,cli]'") from None
        with local_agent() as address:
            yield address


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    settings = ctx.ensure_object(Settings)
    if value is None:
        return
    setattr(settings, str(param.name), value)
    if settings.local and settings.agent is not None:
        raise click.UsageError("--local starts an agent of its own: --agent names another one")


def common_options(command: CommandT) -> CommandT:
    """Add the common options to a command or the group."""
    options = (
        click.option(
            "--agent",
            metavar="ADDRESS",
            callback=_set,
            expose_value=False,
            help="unix:///path/to/agent.sock or 127.0.0.1:port. Default: $MRELEASE_AGENT, else this user's socket.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice(["table", "json", "yaml"]),
            callback=_set,
            expose_value=False,
            help="How to print results. Default: table.",
        ),
        click.option(
            "--local",
            is_flag=True,
            default=None,
            callback=_set,
            expose_value=False,
            help="Without an agent: do the same in this process.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


pass_settings = click.make_pass_decorator(Settings, ensure=True)
