"""Put the sources together and check the result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mrelease_agent.address import AddressError, TcpAddress, parse, parse_tcp
from mrelease_agent.config.schema import Config, Key, default_listen, default_node_name, keys
from mrelease_agent.config.sources import Setting, format_value, from_environment, from_file, from_flags
from mrelease_agent.config.values import ConfigError, format_duration, parse_duration, quote


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """Effective configuration: flag over variable over file over default. ``argv`` is without the program's name.

    Raises ConfigError for a configuration that cannot be used, and SystemExit(0) after printing for --help, --version and
    --print-config.
    """
    flags = from_flags(argv)
    variables = from_environment(environ)
    file: Mapping[str, Setting] = {}
    if flags.file is not None:
        file = from_file(flags.file, "--config")
    elif "MRELEASE_CONFIG" in environ:
        file = from_file(environ["MRELEASE_CONFIG"], "MRELEASE_CONFIG")
    given = {**file, **variables, **flags.settings}
    values = {name: _convert(keys()[name], setting) for name, setting in given.items()}
    if "node_name" not in given:
        given["node_name"] = Setting(default_node_name(), "the host name")
        values["node_name"] = _convert(keys()["node_name"], given["node_name"])
    if "listen" not in given:
        values["listen"] = default_listen(environ, os.geteuid())
    config = Config(**values)
    _check(config, given)
    if flags.print_config:
        sys.stdout.write(_as_yaml(config, given))
        raise SystemExit(0)
    return config


def _convert(key: Key, setting: Setting) -> Any:
    text = setting.text
    if text is None:
        if key.is_nullable:
            return None
        raise ConfigError(f'{setting.source}: {key.name} has no value: give it one, or remove it ("" is the empty text)')
    if key.choices and text not in key.choices:
        raise _wrong(key, setting, f"write {' or '.join(key.choices)}")
    try:
        value = parse_duration(text) if key.is_duration else text
        return msgspec.convert(value, key.annotated, strict=False)
    except msgspec.ValidationError:
        raise _wrong(key, setting, f"write {allowed(key)}") from None
    except ValueError as error:
        raise _wrong(key, setting, str(error)) from None


def allowed(key: Key) -> str:
    """What a key may be, in words."""
    if key.choices:
        return " or ".join(key.choices)
    if key.bounds is None:
        return str(key.extra.get("form", "text"))
    what, show = ("a duration", format_duration) if key.is_duration else ("a whole number", str)
    least, greatest = map(show, key.bounds)
    return f"{what} from {least} to {greatest}{' or null' if key.is_nullable else ''}"


def _wrong(key: Key, setting: Setting, remedy: str) -> ConfigError:
    return ConfigError(f"{setting.source}: {key.name} is {quote(setting.text or '')}: {remedy}")


def _check(config: Config, given: Mapping[str, Setting]) -> None:
    """Check what one key says of another, and the addresses."""
    try:
        address = parse(config.listen)
    except AddressError as error:
        raise ConfigError(f"{_source(given, 'listen')}: listen is {quote(config.listen)}: it {error}") from error
    if isinstance(address, TcpAddress) and not config.allow_plaintext_loopback:
        raise ConfigError(
            f"{_source(given, 'listen')}: listen is {quote(config.listen)}, where every user of this node could have processes killed: "
            "use unix:///path, or accept that with allow_plaintext_loopback: true"
        )
    if config.http_listen:
        try:
            parse_tcp(config.http_listen)
        except AddressError as error:
            raise ConfigError(f"{_source(given, 'http_listen')}: http_listen is {quote(config.http_listen)}: it {error}") from error
    if config.state_dir and not os.path.isabs(config.state_dir):  # noqa: PTH117 - pathlib is not needed to see it
        raise ConfigError(f"{_source(given, 'state_dir')}: state_dir is {quote(config.state_dir)}: write an absolute path")
    if config.reaper_cpus:
        _check_cpus(config.reaper_cpus, _source(given, "reaper_cpus"))
    if config.default_timeout > config.max_timeout:
        default, longest = format_duration(config.default_timeout), format_duration(config.max_timeout)
        raise ConfigError(
            f"default_timeout is {default} ({_source(given, 'default_timeout')}), longer than max_timeout, {longest} "
            f"({_source(given, 'max_timeout')}): set default_timeout to at most {longest}"
        )


def _check_cpus(text: str, source: str) -> None:
    from mrelease_agent.linux.own_thread import format_cpus, parse_cpus, present_cpus

    wrong = f"{source}: reaper_cpus is {quote(text)}: "
    try:
        cpus = parse_cpus(text)
    except ValueError as error:
        raise ConfigError(wrong + str(error)) from None
    present = present_cpus()
    if present and not cpus <= present:
        raise ConfigError(f"{wrong}this node has no CPU {quote(format_cpus(cpus - present))}: write CPUs of {format_cpus(present)}")


def _source(given: Mapping[str, Setting], name: str) -> str:
    return given[name].source if name in given else "default"


def _as_yaml(config: Config, given: Mapping[str, Setting]) -> str:
    # A JSON string is a YAML string. Everything that is text in quotes keeps its type whatever YAML thinks of the word.
    lines: list[str] = []
    for key in keys().values():
        text = format_value(key, getattr(config, key.name))
        shown = json.dumps(text) if key.type is str else text
        lines.append(f"{key.name}: {shown}  # {_source(given, key.name)}\n")
    return "".join(lines)
