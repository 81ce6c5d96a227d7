"""Values as people read them: sizes, durations, names that others chose, aligned columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import timedelta

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size(size_bytes: int) -> str:
    """Bytes with a binary unit, three digits: ``1.00 GiB``, ``512 MiB``, ``12 B``."""
    power = _power(size_bytes)
    return f"{_scaled(size_bytes, power)} {_UNITS[power]}"


def share(part_bytes: int, whole_bytes: int) -> str:
    """A part of a whole in the unit of the whole: ``1.00 of 1.00 GiB``."""
    power = _power(max(part_bytes, whole_bytes))
    return f"{_scaled(part_bytes, power)} of {_scaled(whole_bytes, power)} {_UNITS[power]}"


def duration(value: timedelta | None) -> str:
    """A duration with two or three digits: ``13 ms``, ``1.25 s``; ``-`` for None."""
    if value is None:
        return "-"
    seconds = value.total_seconds()
    if seconds < 0.9995:
        milliseconds = seconds * 1000
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{_three_digits(seconds)} s"


def printable(text: str) -> str:
    r"""Text with everything escaped that a terminal might obey or hide.

    A process chooses its own name (``prctl(PR_SET_NAME)``): control characters, escape sequences and characters that change the writing
    direction become ``\x1b``, ``\u202e``.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in text)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[list[str]]:
    """Pad the cells of each column to one width; those of the columns numbered in ``right`` are aligned right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    padded: list[list[str]] = []
    for row in rows:
        cells: list[str] = []
        for column, cell in enumerate(row):
            blanks = " " * (widths[column] - _width(cell))
            cells.append(blanks + cell if column in right else cell if column == last else cell + blanks)
        padded.append(cells)
    return padded


def _power(size_bytes: int) -> int:
    power, scaled = 0, float(abs(size_bytes))
    while scaled >= 1023.5 and power < len(_UNITS) - 1:
        power, scaled = power + 1, scaled / 1024
    return power


def _scaled(size_bytes: int, power: int) -> str:
    return str(size_bytes) if power == 0 else _three_digits(size_bytes / 1024**power)


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
