"""The journal of lifted weights: what was written where, before it is written, so that the next agent can restore it after a crash.

One JSON object a line, appended by one write(2) each; what has been written survives the agent's death, and what does not survive the
node's is of no use after it. Each line carries the boot id. The agent that writes it holds flock(2) on it.

A line without ``v`` is of version 1. Names and meanings of a version stay, and names may be added to it: what would not be understood
without them gets another number. Lines of a later version are not acted upon, and kept for an agent that knows it (docs/upgrading.md).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from mrelease_agent.linux.node import boot_id

NAME: Final = "boost.journal"
#: Control files that are lifted: nothing else is ever written because a journal says so.
File = Literal["cpu.shares", "cpu.weight", "cpu.idle", "cpu.cfs_quota_us", "cpu.max"]
Value = Annotated[str, Meta(pattern="^(-?[0-9]{1,20}|max)( [0-9]{1,20})?$")]
_T = TypeVar("_T")
#: Bytes after which what is settled is dropped, and up to which a journal is read.
_COMPACT_AT: Final = 1 << 20
_READ_MOST: Final = 64 << 20


class JournalError(Exception):
    """The journal cannot be kept; str() says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One lifted control file: its cgroup by hierarchy version, canonical path and inode number, the value before and the one written."""

    version: Annotated[int, Meta(ge=1, le=2)]
    path: str
    inode: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    file: File
    was: Value
    now: Value


# What is written is counted on from what was found, and above half of this from 1: all that is written can be read.
_HIGHEST: Final = 1 << 53
_Number = Annotated[int, Meta(ge=1, le=_HIGHEST)]


class _Record(msgspec.Struct, omit_defaults=True):
    """One line: ``lift`` is about to be written under this number; without it, that number is settled."""

    boot: str
    number: _Number
    lift: Entry | None = None


class _Version(msgspec.Struct):
    """What lines of all versions have."""

    boot: str
    number: _Number
    v: Annotated[int, Meta(ge=1)] = 1


@dataclass(frozen=True, slots=True)
class Found:
    """What an earlier agent left: entries not restored, how many lines could not be read, and whether all was of another boot.

    ``newer``: how many lines are of a later version than this agent's, and kept.
    """

    entries: tuple[Entry, ...]
    corrupt: int
    other_boot: bool
    newer: int = 0


class Journal:
    """The journal in ``directory``, which must exist and belong to the agent. Raises JournalError."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._fd = self._locked(self._path, 0)
        self._open: dict[int, Entry] = {}
        self._numbers: Iterator[int] = itertools.count(1)
        self._newer: list[bytes] = []
        #: What an earlier agent left.
        self.found = self._load()

    def begin(self, entry: Entry) -> int:
        """Write an entry down before its value is written; its number. Raises JournalError: then nothing may be written."""
        number = next(self._numbers)
        _append(self._fd, [_line(number, entry)])
        self._open[number] = entry
        return number

    def end(self, number: int) -> None:
        """Say that an entry is settled. Where that cannot be written, the next agent finds it restored."""
        del self._open[number]
        with contextlib.suppress(JournalError, OSError):
            if not self._open and not self._newer:
                os.ftruncate(self._fd, 0)
                return
            _append(self._fd, [_line(number)])
            if os.fstat(self._fd).st_size > _COMPACT_AT:
                self._rewrite()

    def close(self) -> None:
        """Close it; harmless when repeated. Entries that are not settled stay for the next agent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def settle_found(self, kept: Sequence[Entry]) -> None:
        """What an earlier agent left has been dealt with, but for ``kept``, which the next one finds too. Raises JournalError."""
        self.found = Found(tuple(kept), 0, other_boot=False)
        self._open.update((next(self._numbers), entry) for entry in kept)
        self._rewrite()

    def _rewrite(self) -> None:
        """Put a file with the open entries, and what is not ours to judge, in its place. Raises JournalError."""
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fd = self._locked(fresh, os.O_EXCL)
        try:
            _append(fd, [*self._newer, *(_line(number, entry) for number, entry in self._open.items())])
            fresh.rename(self._path)
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError):
                raise JournalError(f"{self._path} cannot be written: {error.strerror}") from None
            raise
        os.close(self._fd)
        self._fd = fd

    @staticmethod
    def _locked(path: Path, flags: int) -> int:
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        except OSError as error:
            raise JournalError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise JournalError(f"{path} is in use by another agent") from None
        return fd

    def _load(self) -> Found:
        text = os.pread(self._fd, _READ_MOST, 0)
        entries: dict[int, Entry] = {}
        newer: set[int] = set()
        corrupt = other = 0
        for line in text.splitlines():
            version = _read(line, _Version)
            record = None if version is None or version.v > 1 else _read(line, _Record)
            if version is None or (version.v == 1 and record is None):
                corrupt += 1
            elif version.boot != boot_id():
                other += 1
            elif record is None:
                self._newer.append(line + b"\n")
                newer.add(version.number)
            elif record.lift is None:
                entries.pop(record.number, None)
            else:
                entries[record.number] = record.lift
        if text and not text.endswith(b"\n"):
            with contextlib.suppress(OSError):
                os.write(self._fd, b"\n")  # what is appended next begins a line
        self._numbers = _after({*entries, *newer})
        return Found(tuple(entries.values()), corrupt, other_boot=bool(other) and not entries, newer=len(self._newer))


def _after(taken: set[int]) -> Iterator[int]:
    """Numbers that nothing in the file has."""
    highest = max(taken, default=0)
    start = highest + 1 if highest < _HIGHEST // 2 else 1
    return (number for number in itertools.count(start) if number not in taken)


def _append(fd: int, lines: Sequence[bytes]) -> None:
    """Append all lines or none. Raises JournalError."""
    text = b"".join(lines)
    size = os.fstat(fd).st_size
    try:
        written = os.write(fd, text)
    except OSError as error:
        raise JournalError(f"the journal cannot be written: {error.strerror}") from None
    if written != len(text):
        os.ftruncate(fd, size)
        raise JournalError(f"the journal cannot be written: {os.strerror(errno.ENOSPC)}")


def _line(number: int, entry: Entry | None = None) -> bytes:
    return msgspec.json.encode(_Record(boot_id(), number, entry)) + b"\n"


def _read(line: bytes, kind: type[_T]) -> _T | None:
    """One line; None where it is none of this kind."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not UTF-8
        return None
