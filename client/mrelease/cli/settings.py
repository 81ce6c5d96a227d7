"""Options that every command takes, before or after its name."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from mrelease.cli.where import Flags, Where, find

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings(Flags):
    """What the common options say."""

    output: str = "table"
    local: bool = False

    @contextmanager
    def where(self) -> Generator[Where]:
        """The agent for a client; with ``--local`` one that lives as long as the block. Raises ContextError, InvalidTLS."""
        if not self.local:
            yield find(self)
            return
        try:
            from mrelease_agent.local import local_agent
        except ModuleNotFoundError as error:
            raise click.UsageError(f"--local needs {error.name}: pip install 'mrelease[agent,cli]'") from None
        with local_agent() as address:
            yield Where(address)

    def repeated(self) -> str:
        """The flags that name the agent, for another command line; with a blank at the end where there are any."""
        given = ((field.name, getattr(self, field.name)) for field in fields(Flags))
        return "".join(f"--{name.replace('_', '-')} {shlex.quote(text)} " for name, text in given if text)


def _set(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    settings = ctx.ensure_object(Settings)
    if value is None:
        return
    setattr(settings, str(param.name), value)
    if settings.local and settings.repeated():
        raise click.UsageError("--local starts an agent of its own: --agent, --context and --tls-... are for another one")


def _tls(name: str, metavar: str, text: str, default: str) -> Callable[[CommandT], CommandT]:
    return click.option(f"--tls-{name}", metavar=metavar, callback=_set, expose_value=False, help=f"{text} Default: {default}.")


def common_options(command: CommandT) -> CommandT:
    """Add the common options to a command or the group."""
    options = (
        click.option(
            "--agent",
            metavar="ADDRESS",
            callback=_set,
            expose_value=False,
            help="unix:///path/to/agent.sock or host:port. Default: $MRELEASE_AGENT, else the context in use, else this user's socket.",
        ),
        click.option(
            "--context",
            metavar="NAME",
            callback=_set,
            expose_value=False,
            help="Agent and certificates by name, see `mrelease context`. Default: $MRELEASE_CONTEXT, else the one in use.",
        ),
        _tls("ca", "FILE", "Authorities that may vouch for the agent.", "$MRELEASE_CLIENT_CA"),
        _tls("cert", "FILE", "Certificate to show it.", "$MRELEASE_CLIENT_CERT"),
        _tls("key", "FILE", "Private key of the certificate.", "$MRELEASE_CLIENT_KEY"),
        _tls("server-name", "NAME", "Name that its certificate must have.", "$MRELEASE_CLIENT_SERVER_NAME, else the host"),
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
