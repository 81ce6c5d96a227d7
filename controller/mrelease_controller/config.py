"""What an administrator allows the controller to do: a YAML file, read strictly. docs/controller.md says what each key means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from mrelease_agent.config.values import ConfigError, parse_duration, parse_size, quote
from mrelease_agent.guard.policy import patterns, strict_yaml

_Name = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62}\*?|\*)$")]
ValueT = TypeVar("ValueT")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*?)`")


class _Namespaces(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    allow: list[_Name] = msgspec.field(default_factory=lambda: ["*"])
    deny: list[_Name] = msgspec.field(default_factory=lambda: ["kube-system"])
    kill: list[_Name] = msgspec.field(default_factory=list[str])


class _Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    per_node: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10
    total: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 60


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1]
    dry_run: bool = False
    margin: str = "30s"
    kill_margin: str = "2m"
    timeout: str = "10s"
    min_memory: str = "1MiB"
    first_pause: str = "5s"
    longest_pause: str = "5m"
    containers: bool = True
    namespaces: _Namespaces = msgspec.field(default_factory=_Namespaces)
    limits: _Limits = msgspec.field(default_factory=_Limits)


@dataclass(frozen=True, slots=True)
class Settings:
    """The file, checked. Durations are in seconds, sizes in bytes.

    ``margin``: how long past the end of its grace period a pod is left to kubelet. ``kill_margin``: the same for a kill, where that is
    allowed. ``pauses``: between the first two looks at a pod, and the longest. ``per_node``, ``total``: requests a minute at most.
    """

    dry_run: bool = False
    margin: float = 30.0
    kill_margin: float = 120.0
    timeout: float = 10.0
    min_bytes: int = 1 << 20
    pauses: tuple[float, float] = (5.0, 300.0)
    containers: bool = True
    per_node: int = 10
    total: int = 60
    allow: tuple[str, ...] = ("*",)
    deny: tuple[str, ...] = ("kube-system",)
    kill: tuple[str, ...] = ()


def covers(names: tuple[str, ...], namespace: str) -> bool:
    """Whether one of ``names``, which may end in ``*``, means this namespace."""
    return any(patterns.namespace(name)(namespace) for name in names)


def load(file: str) -> Settings:
    """Read the file. Raises ConfigError that names the file, the key and the remedy."""
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; name a file that the controller's user may read") from None
    return read(raw, file)


def read(raw: bytes, file: str) -> Settings:
    """What ``file`` contains. Raises ConfigError."""
    document = strict_yaml.parse(raw, file)
    try:
        found = msgspec.convert(document.value, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_words(str(error))}") from None

    def seconds(key: str, least: float, most: float) -> float:
        value = _value(file, key, getattr(found, key), parse_duration)
        if not least <= value <= most:
            raise ConfigError(f"{file}: {key} is {getattr(found, key)}: write a duration from {least:g}s to {most / 3600:g}h")
        return value

    settings = Settings(
        dry_run=found.dry_run,
        margin=seconds("margin", 1, 86_400),
        kill_margin=seconds("kill_margin", 1, 86_400),
        timeout=seconds("timeout", 1, 3_600),
        min_bytes=_value(file, "min_memory", found.min_memory, parse_size),
        pauses=(seconds("first_pause", 1, 3_600), seconds("longest_pause", 1, 86_400)),
        containers=found.containers,
        per_node=found.limits.per_node,
        total=found.limits.total,
        allow=tuple(found.namespaces.allow),
        deny=tuple(found.namespaces.deny),
        kill=tuple(found.namespaces.kill),
    )
    if settings.pauses[0] > settings.pauses[1]:
        raise ConfigError(f"{file}: first_pause is longer than longest_pause: write it shorter, or both the same")
    if settings.kill_margin < settings.margin:
        raise ConfigError(f"{file}: kill_margin is shorter than margin: who may still end by itself must not be killed; write it longer")
    return settings


def _value(file: str, key: str, text: str, parse: Callable[[str], ValueT]) -> ValueT:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{file}: {key} is {quote(text)}: {error}") from None


def _words(problem: str) -> str:
    unknown = _UNKNOWN.search(problem)
    if unknown is None:
        return f"{problem}: docs/controller.md says what each key takes"
    known = [field.name for part in (_File, _Namespaces, _Limits) for field in msgspec.structs.fields(part)]
    near = difflib.get_close_matches(unknown[1][:80], known, n=1, cutoff=0.6)
    return f"{quote(unknown[1])} is no key there: " + (f'did you mean "{near[0]}"?' if near else f"there are {', '.join(known)}")
