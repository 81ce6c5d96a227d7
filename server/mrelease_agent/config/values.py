"""Values of the configuration as text: the same text in a flag, a variable and the file means the same."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from mrelease._version import VERSION

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII)
_SIZES: Final = {"B": 0, "KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(B|KiB|MiB|GiB|TiB)", re.ASCII)


class ConfigError(Exception):
    """The configuration cannot be used; the message names source, key, value and remedy."""


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 500ms, 1.5s, 5m or 1h. Raises ValueError with what to write instead."""
    match = _DURATION.fullmatch(text)
    if match is None:
        hint = f"{text}s" if _DURATION.fullmatch(f"{text}s") else "500ms, 10s, 5m or 1h"
        raise ValueError(f"a duration has a number and a unit: write {hint}")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """Write seconds the way ``parse_duration`` reads them, in the largest unit that makes a whole number."""
    for unit in ("h", "m", "s"):
        if seconds >= _UNITS[unit] and (seconds / _UNITS[unit]).is_integer():
            return f"{seconds / _UNITS[unit]:.0f}{unit}"
    return f"{round(seconds * 1000, 6):g}ms" if seconds else "0s"


def parse_size(text: str) -> int:
    """Bytes of a size such as 512MiB, 1.5GiB or 0. Raises ValueError with what to write instead."""
    match = _SIZE.fullmatch("0B" if text == "0" else text)
    if match is None:
        hint = f"{text}B" if _SIZE.fullmatch(f"{text}B") else "512MiB or 64GiB"
        raise ValueError(f"a size has a number and a unit: write {hint}")
    return int(float(match[1]) * 1024 ** _SIZES[match[2]]) if "." in match[1] else int(match[1]) * 1024 ** _SIZES[match[2]]


def format_size(size: int) -> str:
    """Write bytes the way ``parse_size`` reads them, in the largest unit that makes a whole number."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        whole, rest = divmod(size, 1024 ** _SIZES[unit])
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{size}B" if size else "0"


def parse_list(text: str) -> tuple[str, ...]:
    """Words of a list with commas between them, without blanks around them, each once; empty for an empty text."""
    return tuple(dict.fromkeys(word for part in text.split(",") if (word := part.strip())))


def quote(value: str) -> str:
    """Show a value in a message: on one line, in quotes, cut to 80 characters."""
    shown = value if len(value) <= 80 else value[:77] + "..."
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + '"'


def suggest(name: str, known: Iterable[str]) -> str:
    """Name the known name that is nearest to a wrong one; where none is near, say where the list is."""
    near = difflib.get_close_matches(name[:80], list(known), n=1, cutoff=0.5)
    return f'did you mean "{near[0]}"?' if near else f"`mrelease-agent --help` lists the known ones of mrelease-agent {VERSION}"
