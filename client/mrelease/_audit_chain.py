"""The rule that chains the records of an audit log: the agent writes by it, ``mrelease audit`` and the agent's recovery read by it.

A record is one line of ASCII: a JSON object that begins with ``event``, ``v``, ``seq``, ``time`` and ``prev``, and ends with ``hash``.
``hash`` is the SHA-256 of the line up to and without ``,"hash":``; ``prev`` is the ``hash`` of the record before, so each hash stands for
all that was ever written. Nothing is parsed and written again to check it: the bytes are what was hashed.

``v`` is the version of the record's other fields. The rule is the same for all of them: a log that a later agent has written is verified,
and gone on with after a downgrade.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final, cast

#: ``prev`` of the very first record.
GENESIS: Final = "0" * 64
#: File beside the logs: number and hash of the last record that was made durable.
HEAD: Final = "head"
_HEAD: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")
_NAME: Final = re.compile(r"audit-([0-9]{12})(?:-([1-9]))?\.jsonl", re.ASCII)
_LINE: Final = re.compile(
    rb'(\{"event":"([a-z]{1,32})","v":[1-9][0-9]{0,3},"seq":([1-9][0-9]{0,17}),"time":"[^"\\]{1,40}","prev":"([0-9a-f]{64})"[ -~]*)'
    rb',"hash":"([0-9a-f]{64})"\}'
)


class BadRecordError(Exception):
    """A line that is no record, or one whose hash is not its own; str() says which."""


@dataclass(frozen=True, slots=True)
class Link:
    """What chains one record: its number, its own hash and that of the one before."""

    event: str
    seq: int
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """How far the log was durable when the head file was written."""

    seq: int
    hash: str


def seal(body: bytes) -> tuple[bytes, str]:
    """Make the line of a record and its hash; ``body`` is its JSON object without ``hash``, in ASCII."""
    digest = hashlib.sha256(body[:-1]).hexdigest()
    return b'%b,"hash":"%b"}\n' % (body[:-1], digest.encode()), digest


def link(line: bytes) -> Link:
    """Read a line without its newline, and check its hash. Raises BadRecordError."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise BadRecordError("it is no record of an audit log")
    body, event, seq, prev, digest = found.groups()
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise BadRecordError("its hash is not that of its text")
    return Link(event.decode(), int(seq), prev.decode(), digest.decode())


def fields(line: bytes) -> dict[str, Any]:
    """What a line says that link() took. Raises BadRecordError: who knows how records are chained can seal what is none."""
    try:
        return cast("dict[str, Any]", json.loads(line))  # it begins with a brace
    except (ValueError, RecursionError):
        raise BadRecordError("it is no record of an audit log") from None


def file_name(first: int, spare: int = 0) -> str:
    """Name of the file whose first record has the number ``first``; ``spare`` (1 to 9) where that name is taken."""
    return f"audit-{first:012d}{f'-{spare}' if spare else ''}.jsonl"


def file_order(name: str) -> tuple[int, int] | None:
    """By what log files are sorted; None where the name is not one of theirs."""
    found = _NAME.fullmatch(name)
    return (int(found[1]), int(found[2] or 0)) if found else None


def write_head(head: Head) -> bytes:
    """Content of the head file: always as long."""
    return f"{head.seq:020d} {head.hash}\n".encode()


def read_head(content: bytes) -> Head | None:
    """The head that was written; None where it cannot be read."""
    found = _HEAD.fullmatch(content)
    return Head(int(found[1]), found[2].decode()) if found else None
