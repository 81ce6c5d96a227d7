"""What the annotations of ``Config`` say of each key: how it is written as flag and variable, what it may be, what it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from mrelease_agent.config.schema import Config


class Key(NamedTuple):
    """One key of the configuration with what its annotation says of it; ``annotated`` is the whole annotation."""

    name: str
    annotated: Any
    default: Any

    @property
    def type(self) -> Any:
        """Type of its value without the annotation."""
        return get_args(self.annotated)[0]

    @property
    def description(self) -> str:
        """What it is for; may contain `code`."""
        return str(get_args(self.annotated)[1].description)

    @property
    def extra(self) -> Mapping[str, Any]:
        """What msgspec has no word for: ``duration``, ``default`` (where it is computed), ``form`` (of a text)."""
        return get_args(self.annotated)[1].extra or {}

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Least and greatest value; None where it is no number."""
        # Of `int | None` the bounds belong to the int.
        for holder in (self.annotated, *get_args(self.type)):
            meta = next((part for part in get_args(holder) if isinstance(part, Meta) and part.ge is not None), None)
            if meta is not None and meta.ge is not None and meta.le is not None:
                return meta.ge, meta.le
        return None

    @property
    def flag(self) -> str:
        """Command line flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Environment variable."""
        return "MRELEASE_" + self.name.upper()

    @property
    def is_duration(self) -> bool:
        """Whether its text is a duration."""
        return "duration" in self.extra

    @property
    def is_size(self) -> bool:
        """Whether its text is a size in bytes."""
        return "size" in self.extra

    @property
    def is_nullable(self) -> bool:
        """Whether it has a meaning without a value."""
        return type(None) in get_args(self.type)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be; empty where it is not one of a few."""
        if self.type is bool:
            return ("true", "false")
        return get_args(self.type) if get_origin(self.type) is Literal else ()


def keys() -> Mapping[str, Key]:
    """Every key by its name, in the order of ``Config``."""
    return _KEYS


def _derive() -> Mapping[str, Key]:
    return {field.name: Key(field.name, field.type, field.default) for field in msgspec.structs.fields(Config)}


_KEYS: Final = _derive()
