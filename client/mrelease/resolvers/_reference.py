"""References: how people and programs name something of an orchestrator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from mrelease.errors import InvalidReference

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})://", re.ASCII)
_LONGEST: Final = 2048


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: ``scheme://part/part?key=value``."""

    text: str
    scheme: str
    parts: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Split a reference; parts and values are percent-decoded. Raises InvalidReference."""
        found = _SCHEME.match(text)
        if found is None or len(text) > _LONGEST or not text.isprintable():
            raise InvalidReference(f"{text[:80]!r} is not a reference", "write scheme://..., for example k8s://namespace/pod")
        try:
            split = urlsplit(text)
            pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=True) if split.query else []
        except ValueError:
            raise InvalidReference(f"{text!r} is not a reference", "after the ? there are key=value, with & between them") from None
        if split.fragment or len(dict(pairs)) != len(pairs):
            raise InvalidReference(f"{text!r} has a fragment, or the same key twice", "remove it; %23 stands for #")
        path = split.path.removeprefix("/").removesuffix("/")
        parts = (split.netloc, *path.split("/")) if path else (split.netloc,)
        if not all(parts):
            raise InvalidReference(f"{text!r} has an empty part", "as of a variable that is not set: write it out")
        return cls(text, found[1], tuple(map(unquote, parts)), MappingProxyType(dict(pairs)))

    def only(self, *keys: str) -> None:
        """Raises InvalidReference for a key that is not among these: what is not understood may have been meant to leave something out."""
        for key in self.query:
            if key not in keys:
                known = f"known are {', '.join(keys)}" if keys else "there are none here: remove it"
                raise InvalidReference(f"{self.text!r}: {key!r} is not known", known)
