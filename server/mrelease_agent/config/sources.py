"""The three sources of the configuration, each read to text: command line, environment, YAML file."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from mrelease._version import VERSION
from mrelease_agent.config.keys import Key, keys
from mrelease_agent.config.values import ConfigError, format_duration, format_size, quote, suggest

#: A configuration of every key is below 1 KiB.
MAX_FILE_BYTES: Final = 64 * 1024
#: Variables that begin with MRELEASE_ and are no keys: the file, and what callers use.
OTHER_VARIABLES: Final = (
    "MRELEASE_CONFIG",
    *("MRELEASE_AGENT", "MRELEASE_CONTEXT", "MRELEASE_CONTEXTS"),
    *("MRELEASE_ADDRESSES", "MRELEASE_AGENTS", "MRELEASE_AGENT_TEMPLATE", "MRELEASE_INVENTORY"),
    *("MRELEASE_CLIENT_CA", "MRELEASE_CLIENT_CERT", "MRELEASE_CLIENT_KEY", "MRELEASE_CLIENT_SERVER_NAME"),
)


class Setting(NamedTuple):
    """Text that a source gives for a key (None: YAML's null), and the source as messages name it."""

    text: str | None
    source: str


class CommandLine(NamedTuple):
    """What the flags say."""

    settings: Mapping[str, Setting]
    file: str | None
    print_config: bool


def from_flags(argv: Sequence[str]) -> CommandLine:
    """Read the flags. Prints and raises SystemExit(0) for --help and --version; raises ConfigError for what is not known."""
    parsed, unknown = _parser().parse_known_args(list(argv))
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("--"):
            raise ConfigError(f"unknown argument {quote(unknown[0])}: the agent takes flags only; `mrelease-agent --help` lists them")
        flags = ["--config", "--print-config", "--help", "--version", *(key.flag for key in keys().values())]
        raise ConfigError(f"unknown flag {quote(name)}: {suggest(name, flags)}")
    given: dict[str, Any] = vars(parsed)
    settings: dict[str, Setting] = {}
    for name, key in keys().items():
        if name in given:
            value = given[name]
            text = str(value).lower() if isinstance(value, bool) else value
            settings[name] = Setting(None if key.is_nullable and text == "null" else text, key.flag)
    return CommandLine(settings, given.get("config"), given.get("print_config", False))


def from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    """Read the MRELEASE_* variables. Raises ConfigError for an unknown one."""
    variables = {key.variable: key for key in keys().values()}
    # Kubernetes adds variables for every Service of the namespace (NAME_SERVICE_HOST, NAME_PORT, ...), also for one called mrelease.
    links = tuple(name[: -len("SERVICE_HOST")] + end for name in environ if name.endswith("_SERVICE_HOST") for end in ("SERVICE_", "PORT"))
    settings: dict[str, Setting] = {}
    for name, text in environ.items():
        key = variables.get(name)
        if key is not None:
            settings[key.name] = Setting(None if key.is_nullable and text == "null" else text, name)
        elif name.startswith("MRELEASE_") and name not in OTHER_VARIABLES and not name.startswith(links):
            raise ConfigError(f"unknown variable {quote(name)} in the environment: {suggest(name, [*variables, *OTHER_VARIABLES])}")
    return settings


def from_file(path: str, named_by: str) -> dict[str, Setting]:
    """Read a YAML file, one ``key: value`` a line; ``named_by`` is the flag or variable that named it.

    Values are taken as text, without YAML's own ideas of numbers and booleans. Raises ConfigError for anything but one mapping of
    known keys to single values, each key once.
    """
    import yaml  # only here: an agent without a file does not need it

    text = _read(path, named_by)
    settings: dict[str, Setting] = {}
    try:
        for key_event, value in _pairs(yaml.parse(text, Loader=yaml.SafeLoader), path):
            name, source = key_event.value, _where(path, key_event.start_mark)
            if name not in keys():
                raise ConfigError(f"unknown key {quote(name)} in {source}: {suggest(name, keys())}")
            if name in settings:
                raise ConfigError(f"{source}: {name} is set twice (before in {settings[name].source}): remove one of them")
            if not isinstance(value, yaml.ScalarEvent):
                raise ConfigError(f"{source}: {name} is not a single value: write `{name}: value`")
            if value.tag is not None or value.anchor is not None:
                raise ConfigError(f"{source}: {name} has a YAML tag or anchor: write the value alone")
            is_null = value.style is None and value.value in ("", "~", "null", "Null", "NULL")
            settings[name] = Setting(None if is_null else value.value, source)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape of no character, a version of no number
        where = _where(path, getattr(error, "problem_mark", None))
        problem = getattr(error, "problem", None) or "characters that YAML does not allow"
        raise ConfigError(f"{where} is not YAML ({problem}): write one `key: value` a line") from error
    return settings


def _pairs(events: Iterator[Any], path: str) -> Iterator[tuple[Any, Any]]:
    """Walk the parser's events, never composing nodes: nothing nests, so neither aliases nor depth can grow."""
    import yaml

    wrong = ConfigError(f"{path} is not a mapping: write one `key: value` a line")
    documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(f"{_where(path, event.start_mark)} begins a second document: keep one")
        elif isinstance(event, yaml.MappingStartEvent):
            while not isinstance(key := next(events), yaml.MappingEndEvent):
                if not isinstance(key, yaml.ScalarEvent):
                    raise ConfigError(f"{_where(path, key.start_mark)} has a key that is not a plain word: write `key: value`")
                yield key, next(events)
        elif not isinstance(event, yaml.StreamStartEvent | yaml.StreamEndEvent | yaml.DocumentEndEvent):
            raise wrong


def _where(path: str, mark: Any) -> str:
    return path if mark is None else f"{path}:{mark.line + 1}"


def _read(path: str, named_by: str) -> str:
    named = f"{path} (named by {named_by})"
    try:
        # O_NONBLOCK: a FIFO must not hold the agent up; it has no effect on a file.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{named} is not a regular file: name a YAML file")
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read {named}: {reason}; name a file that the agent's user may read") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{named} is larger than {MAX_FILE_BYTES} bytes: it is not a configuration of this agent")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{named} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; `mrelease-agent --help` lists the flags")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        sys.stdout.write(f"mrelease-agent {VERSION}\n")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mrelease-agent",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        usage="mrelease-agent [--config FILE] [--KEY VALUE ...]",
        description="Kills processes on request, gives their memory back at once, and proves it.",
        epilog="Each key may also be a variable (--reap-delay: MRELEASE_REAP_DELAY) and a line of the file (reap_delay: 5ms). "
        "A flag wins over a variable, a variable over the file. Durations: 500ms, 10s, 5m, 1h.",
    )
    general = parser.add_argument_group("general")
    general.add_argument("--config", metavar="FILE", help="YAML file with one `key: value` a line (variable: MRELEASE_CONFIG)")
    general.add_argument(
        "--print-config", action="store_true", help="print the effective configuration with where each value is from, and exit"
    )
    general.add_argument("--help", "-h", action="help", help="print this and exit")
    general.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    group = parser.add_argument_group("keys")
    for key in keys().values():
        text = f"{key.description} [{describe_default(key)}]".replace("`", "").replace("%", "%%")
        if key.type is bool:
            group.add_argument(key.flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            kind = "DURATION" if key.is_duration else "SIZE" if key.is_size else "N" if key.type is not str else "TEXT"
            metavar = "|".join(key.choices) or kind
            group.add_argument(key.flag, metavar=metavar, help=text)
    return parser


def describe_default(key: Key) -> str:
    """Write the default of a key as help and reference show it."""
    return str(key.extra["default"]) if "default" in key.extra else format_value(key, key.default)


def format_value(key: Key, value: Any) -> str:
    """Write a value of ``Config`` as the text that would give it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return format_duration(value) if key.is_duration else format_size(value) if key.is_size else str(value)
