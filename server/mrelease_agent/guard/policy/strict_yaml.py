"""A small part of YAML, read strictly: what a person means is what is read, and no file can make the reader large or slow.

Mappings, lists, and single values: texts, whole numbers, true and false. No anchors, aliases, tags, merge keys, second documents; no key
twice; no words that YAML 1.1 takes for something else (``no``, ``on``, ``1:30``, ``0o7``): they are texts here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mrelease_agent.config.values import ConfigError, quote

#: Some 700 rules.
MAX_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 16

#: A place in a document: keys and indexes from the top.
Path = tuple["str | int", ...]

_INT: Final = re.compile(r"0|-?[1-9][0-9]{0,18}")
_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says, and on which line it says each thing."""

    value: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """Line of the value at ``path``, or of the nearest one that holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def show(path: Path) -> str:
    """Write a path as people do: rules[0].callers[1].uri."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def parse(raw: bytes, name: str) -> Document:
    """Read ``raw``; ``name`` is that of its file, for errors. Raises ConfigError that names line, path and remedy."""
    import yaml  # only here: an agent without a policy does not need it

    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES} bytes: write fewer rules, each with more callers and targets")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    try:
        return _Reader(name).document(yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: an escape of no character, a version of no number
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "characters that YAML does not allow"
        raise ConfigError(f"{name}{f':{mark.line + 1}' if mark else ''} is not YAML ({problem}): correct it there") from None


@dataclass(slots=True)
class _Reader:
    """Builds values from the parser's events, never composing nodes: so neither aliases nor depth can grow."""

    name: str
    lines: dict[Path, int] = field(default_factory=dict[Path, int])

    def document(self, events: Iterator[Any]) -> Document:
        import yaml

        value: Any = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._wrong(event, (), "begins a second document", "keep one")
                value = self._value(next(events), events, ())
        if not documents:
            raise ConfigError(f"{self.name} is empty: write `version: 1` and `rules:`")
        return Document(value, self.lines)

    def _value(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        import yaml

        self.lines[path] = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._wrong(event, path, "has an anchor or alias", "write the value out")
        if event.tag is not None:
            raise self._wrong(event, path, "has a YAML tag", "write the value alone")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise self._wrong(event, path, "is nested too deeply", "an access policy is five levels deep")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                items.append(self._value(item, events, (*path, len(items))))
            return items
        return self._mapping(events, path)

    def _mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        import yaml

        found: dict[str, Any] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.tag is not None or key.anchor is not None:
                raise self._wrong(key, path, "has a key that is not a plain word", "write `key: value`")
            place = (*path, self._printable(key, path))
            if key.value in found:
                raise self._wrong(key, place, f"is there twice (before on line {self.lines[place]})", "remove one of them")
            found[key.value] = self._value(next(events), events, place)
        return found

    def _scalar(self, event: Any, path: Path) -> Any:
        text = self._printable(event, path)
        if event.style is not None:  # in quotes, or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        return int(text) if _INT.fullmatch(text) else text

    def _printable(self, event: Any, path: Path) -> str:
        text = str(event.value)
        if not text.isprintable():
            raise self._wrong(event, path, f"has characters that nobody sees: {quote(text)}", "write them without")
        return text

    def _wrong(self, event: Any, path: Path, problem: str, remedy: str) -> ConfigError:
        return ConfigError(f"{self.name}:{event.start_mark.line + 1}: {show(path) or 'it'} {problem}: {remedy}")
