"""What pages that are made from numbers are written with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar does not end its cell."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def anchor(heading: str) -> str:
    """What a link to a heading of the same page is called, by GitHub and by the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    return table(["", ""], [[name, value] for name, value in rows])
