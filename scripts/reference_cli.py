"""The reference page of the command line, from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click

from mrelease.cli.main import cli
from mrelease.cli.settings import common_options


def page(notice: str) -> str:
    """Every command with its arguments and options."""
    common = click.Command("common", params=_params(common_options(lambda: None)))
    names = {parameter.name for parameter in common.params}
    text = f"""{notice}
# Command line

`mrelease [OPTIONS] COMMAND [ARGS]...`. Exit codes: [errors](errors.md). Durations are a number with `us`, `ms`, `s`, `m` or `h`; without a
unit, seconds.

Before or after the name of every command that takes them:

{_options(common.params)}"""
    for name, command in _commands(cli):
        own = [p for p in command.params if p.name not in names]
        usage = " ".join(["mrelease", name, *("[OPTIONS]" for _ in own[:1] if _has_options(own)), *_arguments(own)])
        text += f"\n## {name}\n\n`{usage}`\n\n{_help(command)}\n"
        if _has_options(own):
            text += f"\n{_options(own)}"
    return text


def _commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Every command by its name, those of a group by theirs behind its."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in _commands(command))
        else:
            yield name, command


def _params(decorated: Any) -> list[click.Parameter]:
    return list(reversed(decorated.__click_params__))


def _help(command: click.Command) -> str:
    # \b keeps click from joining the lines of a paragraph; here they are code.
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return "\n\n".join("```text\n" + p.removeprefix("\b\n") + "\n```" if p.startswith("\b") else p for p in paragraphs)


def _has_options(params: list[click.Parameter]) -> bool:
    return any(isinstance(p, click.Option) for p in params)


def _arguments(params: list[click.Parameter]) -> list[str]:
    return [p.make_metavar(click.Context(cli)) for p in params if isinstance(p, click.Argument)]


def _options(params: list[click.Parameter]) -> str:
    rows = "".join(f"| {_names(p)} | {_value(p)} | {_default(p)} | {p.help} |\n" for p in params if isinstance(p, click.Option))
    return f"| option | value | default | meaning |\n|---|---|---|---|\n{rows}"


def _names(option: click.Option) -> str:
    return ", ".join(f"`{name}`" for name in option.opts)


def _value(option: click.Option) -> str:
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    if option.metavar:
        return " or ".join(f"`{part}`" for part in option.metavar.split("|"))
    return f"`{option.type.name.upper()}`"


def _default(option: click.Option) -> str:
    # What is not shown in --help is said in the option's own text.
    return f"`{option.default}`" if option.show_default else ""
