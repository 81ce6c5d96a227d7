"""Journals of lifted weights: what can be understood names control files of CPU time alone, and the next agent can go on writing."""

from __future__ import annotations

import re
from typing import get_args

from fuzz.kit import scratch
from mrelease_agent.boosting.journal import NAME, Entry, File, Journal
from mrelease_agent.linux.node import boot_id

NEXT = Entry(1, "/pods", 4711, "cpu.shares", "2", "262144")
VALUE = re.compile(r"(-?[0-9]+|max)( [0-9]+)?")


def one_input(data: bytes) -> None:
    """A journal, with `@` for this boot."""
    folder = scratch() / "journal"
    folder.mkdir(exist_ok=True)
    (folder / NAME).unlink(missing_ok=True)
    (folder / NAME).write_bytes(data.replace(b"@", boot_id().encode()))
    journal = Journal(folder)
    found = journal.found.entries
    for entry in found:
        assert entry.file in get_args(File)
        assert VALUE.fullmatch(entry.was)
        assert VALUE.fullmatch(entry.now)
    number = journal.begin(NEXT)
    journal.close()
    again = Journal(folder)
    assert again.found.entries == (*found, NEXT)
    assert again.found.newer == journal.found.newer
    again.settle_found(again.found.entries)
    again.close()
    assert number > 0
