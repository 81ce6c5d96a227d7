"""``mrelease context``: agents by short names."""

from __future__ import annotations

from pathlib import Path

import click

from mrelease import _contexts, _text
from mrelease._contexts import Context, ContextError, Contexts
from mrelease.cli import formats, output
from mrelease.cli.exit_codes import ExitCode
from mrelease.cli.settings import Settings, pass_settings

_file_option = click.Path(dir_okay=False, path_type=Path)


@click.group()
def context() -> None:
    """Keep agents by short names, with the certificates to show them.

    They are in one file, $MRELEASE_CONTEXTS or mrelease/contexts.json in $XDG_CONFIG_HOME, which only its user may write. It has the
    paths of keys, not the keys. $MRELEASE_CONTEXT and --context choose one for a shell or a command, $MRELEASE_AGENT and --agent go
    before.
    """


@context.command()
@click.argument("name")
@click.argument("address")
@click.option("--ca", type=_file_option, help="Certificates of the authorities that may vouch for the agent.")
@click.option("--cert", type=_file_option, help="Certificate to show.")
@click.option("--key", type=_file_option, help="Its private key.")
@click.option("--server-name", default="", metavar="NAME", help="Name that the agent's certificate must have, if not the host's.")
@click.option("--use", "in_use", is_flag=True, help="Use it from now on. The first one is used anyway.")
def add(name: str, address: str, ca: Path | None, cert: Path | None, key: Path | None, server_name: str, in_use: bool) -> ExitCode:
    """Add a context, or replace the one of this NAME. ADDRESS is host:port, or unix:///path/to/agent.sock.

    The certificates are read, to find out now rather than later that they cannot be used.
    """
    paths = ["" if file is None else str(file.absolute()) for file in (ca, cert, key)]
    made = Context(address, paths[0], paths[1], paths[2], server_name)
    made.check()
    if made.tls is not None:
        from mrelease._tls import load

        load(made.tls)
    contexts, file = _load()
    contexts.add(name, made)
    if in_use or len(contexts.contexts) == 1:
        contexts.current = name
    _contexts.save(contexts, file)
    output.out(f"{name}: {address}" + (", in use" if contexts.current == name else f"; `mrelease context use {name}` uses it"))
    return ExitCode.OK


@context.command()
@click.argument("name")
def use(name: str) -> ExitCode:
    """Use a context from now on."""
    contexts, file = _load()
    contexts.find(name)
    contexts.current = name
    _contexts.save(contexts, file)
    return ExitCode.OK


@context.command()
@click.argument("name")
def remove(name: str) -> ExitCode:
    """Remove a context. Its certificates stay where they are."""
    contexts, file = _load()
    contexts.find(name)
    del contexts.contexts[name]
    if contexts.current == name:
        contexts.current = ""
    _contexts.save(contexts, file)
    return ExitCode.OK


@context.command("list")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml"]), help="How to print it. Default: table.")
@pass_settings
def list_(settings: Settings, form: str | None) -> ExitCode:
    """List the contexts; a * is at the one in use."""
    contexts, _ = _load()
    form = form or settings.output
    if form != "table":
        output.out(formats.dump([_data(contexts, name) for name in sorted(contexts.contexts)], form))
    elif contexts.contexts:
        rows = [(_mark(contexts, name), name, _text.printable(each.agent)) for name, each in sorted(contexts.contexts.items())]
        output.out(*output.columns([("", "NAME", "AGENT"), *rows]))
    return ExitCode.OK


@context.command()
@click.argument("name", required=False)
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "yaml"]), help="How to print it. Default: table.")
@pass_settings
def show(settings: Settings, name: str | None, form: str | None) -> ExitCode:
    """Show a context; without NAME the one in use."""
    contexts, file = _load()
    name = name or contexts.current
    if not name:
        raise ContextError(f"no context is in use ({file}): name one, or use one by `mrelease context use`")
    contexts.find(name)
    form = form or settings.output
    data = _data(contexts, name)
    if form != "table":
        output.out(formats.dump(data, form))
    else:
        output.out(*(f"{key:<12}{_text.printable(str(value))}".rstrip() for key, value in data.items() if value != ""))
    return ExitCode.OK


def _load() -> tuple[Contexts, Path]:
    file = _contexts.path()
    return _contexts.load(file), file


def _mark(contexts: Contexts, name: str) -> str:
    return "*" if name == contexts.current else ""


def _data(contexts: Contexts, name: str) -> dict[str, object]:
    found = contexts.contexts[name]
    return {
        "name": name,
        "in_use": name == contexts.current,
        "agent": found.agent,
        "ca": found.ca,
        "cert": found.cert,
        "key": found.key,
        "server_name": found.server_name,
    }
