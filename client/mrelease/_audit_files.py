"""The files of an audit log as who reads it finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mrelease._audit_chain import HEAD, Head, file_order, read_head

#: Bytes of the longest line that is read as one; the agent's are shorter by far.
LONGEST = 16 << 20


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The log files that ``paths`` are or hold, the oldest first, and the directories among them.

    Raises OSError.
    """
    directories = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path not in directories]
    for directory in directories:
        files += [entry for entry in directory.iterdir() if file_order(entry.name) is not None]
    return sorted(files, key=_order), directories


def heads(directories: Sequence[Path]) -> list[Head]:
    """What the head files say."""
    found: list[Head] = []
    for directory in directories:
        try:
            head = read_head((directory / HEAD).read_bytes()[:256])
        except FileNotFoundError:
            continue
        if head is not None:
            found.append(head)
    return found


def lines(path: Path, start: int = 0) -> Iterator[tuple[int, bytes, int]]:
    """Lines of a file from a byte on: number, text without newline, and the byte behind it; -1 where the line has no end yet."""
    with path.open("rb") as file:
        file.seek(start)
        number, end = 0, start
        while text := file.readline(LONGEST):
            number += 1
            whole = text.endswith(b"\n")
            end += len(text)
            yield number, text[:-1] if whole else text, end if whole else -1


def _order(path: Path) -> tuple[tuple[int, int], str]:
    # A file of another name, a copy for example, is sorted by its name behind the others.
    return file_order(path.name) or (1 << 62, 0), path.name
