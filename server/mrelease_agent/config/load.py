"""Put the sources together and check the result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mrelease_agent.address import AddressError, TcpAddress, parse, parse_tcp, parse_tls
from mrelease_agent.config.defaults import default_audit_dir, default_listen, default_node_name
from mrelease_agent.config.keys import Key, keys
from mrelease_agent.config.protected import check_protected
from mrelease_agent.config.schema import Config
from mrelease_agent.config.sources import Setting, format_value, from_environment, from_file, from_flags
from mrelease_agent.config.target_plugins import check_target_plugins
from mrelease_agent.config.values import ConfigError, format_duration, parse_duration, parse_size, quote


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
    if "audit_dir" not in given:
        values["audit_dir"] = default_audit_dir(environ)
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
        value = parse_duration(text) if key.is_duration else parse_size(text) if key.is_size else text
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
    what = "a duration" if key.is_duration else "a size" if key.is_size else "a whole number"
    least, greatest = (format_value(key, bound) for bound in key.bounds)
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
            "use unix:///path, tls_listen, or accept that with allow_plaintext_loopback: true"
        )
    if isinstance(address, TcpAddress) and config.socket_group:
        raise ConfigError(
            f"{_source(given, 'socket_group')}: socket_group is {quote(config.socket_group)}, and listen is no Unix socket: "
            "set listen to unix:///path, or remove socket_group"
        )
    _check_tls(config, given)
    if config.http_listen:
        _check_http(config, given)
    if config.otlp_endpoint:
        _check_otlp(config.otlp_endpoint, _source(given, "otlp_endpoint"))
    if config.state_dir and not os.path.isabs(config.state_dir):  # noqa: PTH117 - pathlib is not needed to see it
        raise ConfigError(f"{_source(given, 'state_dir')}: state_dir is {quote(config.state_dir)}: write an absolute path")
    if not os.path.isabs(config.pod_logs):  # noqa: PTH117 - pathlib is not needed to see it
        raise ConfigError(f"{_source(given, 'pod_logs')}: pod_logs is {quote(config.pod_logs)}: write an absolute path")
    if config.audit_dir not in ("", "none") and not os.path.isabs(config.audit_dir):  # noqa: PTH117 - pathlib is not needed to see it
        raise ConfigError(f"{_source(given, 'audit_dir')}: audit_dir is {quote(config.audit_dir)}: write an absolute path, or none")
    check_protected(config, lambda name: _source(given, name))
    check_target_plugins(config, lambda name: _source(given, name))
    if config.reaper_cpus:
        _check_cpus(config.reaper_cpus, _source(given, "reaper_cpus"))
    if config.default_timeout > config.max_timeout:
        default, longest = format_duration(config.default_timeout), format_duration(config.max_timeout)
        raise ConfigError(
            f"default_timeout is {default} ({_source(given, 'default_timeout')}), longer than max_timeout, {longest} "
            f"({_source(given, 'max_timeout')}): set default_timeout to at most {longest}"
        )


def _check_http(config: Config, given: Mapping[str, Setting]) -> None:
    try:
        (parse_tls if config.allow_remote_http else parse_tcp)(config.http_listen)
    except AddressError as error:
        shown = f"{_source(given, 'http_listen')}: http_listen is {quote(config.http_listen)}: it {error}"
        raise ConfigError(shown + (", or set allow_remote_http: true" if "loopback" in str(error) else "")) from error


def _check_otlp(text: str, source: str) -> None:
    from urllib.parse import urlsplit

    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and bool(url.port) and text == f"{url.scheme}://{url.netloc}"
    except ValueError:  # of a port, or of brackets
        good = False
    if not good or "@" in text or not text.isprintable() or " " in text:
        raise ConfigError(f"{source}: otlp_endpoint is {quote(text)}: write http://host:port or https://host:port, without a path")


def _check_tls(config: Config, given: Mapping[str, Setting]) -> None:
    if not config.tls_listen:
        # A certificate that nobody uses is one that somebody believes to be in use.
        for name in ("tls_cert", "tls_key", "tls_ca", "tls_crl"):
            if getattr(config, name):
                raise ConfigError(f"{_source(given, name)}: {name} is set and tls_listen is not: set tls_listen too, or remove {name}")
        return
    shown = f"{_source(given, 'tls_listen')}: tls_listen is {quote(config.tls_listen)}"
    try:
        parse_tls(config.tls_listen)
    except AddressError as error:
        raise ConfigError(f"{shown}: it {error}") from error
    for name in ("tls_cert", "tls_key", "tls_ca"):
        if not getattr(config, name):
            raise ConfigError(f"{shown}, and {name} is not set: TLS needs tls_cert, tls_key and tls_ca (`mrelease certs` makes them)")
    if not config.policy:
        raise ConfigError(
            f"{shown}, and policy is not set, so that every certificate of tls_ca would be good for killing anything: set policy to a file "
            "that says who may do what (docs/policy.md has some, `mrelease policy check` explains them)"
        )
    if not config.audit_dir:
        raise ConfigError(
            f"{shown}, and audit_dir is not set: nothing would say who had what killed: "
            "set it to a directory of the agent's own, or accept that with audit_dir: none"
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
