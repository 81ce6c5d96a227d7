"""Processes as rows: columns, orders, and what a filter finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from mrelease import ProcessInfo, QosClass, UnreleasedCause, _text
from mrelease.cli import users

_QOS: Final = {QosClass.GUARANTEED: "Guaranteed", QosClass.BURSTABLE: "Burstable", QosClass.BEST_EFFORT: "BestEffort"}
# Of processes with the same memory so many are named.
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what it shows, what it is sorted by, whether that begins with the largest; ``needed``: shown also where it is empty."""

    title: str
    cell: Callable[[ProcessInfo], str]
    key: Callable[[ProcessInfo], Any]
    largest_first: bool = False
    right: bool = False
    needed: bool = True


def stays_bytes(info: ProcessInfo) -> int:
    """What the process's death would not give back: shared memory, files of a tmpfs, huge pages, memory of others."""
    return sum(unreleased.size_bytes for unreleased in info.unreleased)


def qos(info: ProcessInfo) -> str:
    """Class of its pod, as Kubernetes writes it; empty where it is in none."""
    return _QOS.get(info.qos, "")


def notes(info: ProcessInfo) -> str:
    """Why it would not be killed, and who else has its memory."""
    said: list[str] = []
    if info.protection:
        said.append(f"protected: {_text.printable(info.protection)}")
    if info.sharing_pids:
        more = len(info.sharing_pids) - _NAMED
        named = ", ".join(map(str, info.sharing_pids[:_NAMED])) + (f" and {more} more" if more > 0 else "")
        said.append(f"shares memory with {named}")
    return "; ".join(said)


def stays(info: ProcessInfo) -> list[str]:
    """What its death would not give back, cause by cause; of shared address spaces notes() tell."""
    return [str(unreleased) for unreleased in info.unreleased if unreleased.cause is not UnreleasedCause.SHARED_MM]


#: The columns of the table, in their order.
COLUMNS: Final = (
    Column("PID", lambda i: str(i.pid), lambda i: i.pid, right=True),
    Column("USER", lambda i: users.name(i.uid), lambda i: users.name(i.uid)),
    Column("STATE", lambda i: _text.printable(i.state), lambda i: i.state),
    Column("RECLAIMABLE", lambda i: _text.size(i.reclaimable_bytes), lambda i: i.reclaimable_bytes, largest_first=True, right=True),
    Column(
        "STAYS", lambda i: _text.size(stays_bytes(i)) if stays_bytes(i) else "-", stays_bytes, largest_first=True, right=True, needed=False
    ),
    Column("QOS", lambda i: qos(i) or "-", qos, needed=False),
    Column("POD", lambda i: _text.printable(i.pod_uid[:8]) or "-", lambda i: i.pod_uid, needed=False),
    Column("CONTAINER", lambda i: _text.printable(i.container_id[:12]) or "-", lambda i: i.container_id, needed=False),
    Column("COMMAND", lambda i: _text.printable(i.command), lambda i: i.command.casefold()),
    Column("NOTES", notes, notes, largest_first=True, needed=False),
)
#: Index of the column that the table is sorted by at first.
RECLAIMABLE: Final = next(number for number, column in enumerate(COLUMNS) if column.title == "RECLAIMABLE")


def cells(info: ProcessInfo) -> tuple[str, ...]:
    """The row of one process."""
    return tuple(column.cell(info) for column in COLUMNS)


def arranged(infos: Iterable[ProcessInfo], column: int, *, backwards: bool = False, words: str = "") -> list[ProcessInfo]:
    """Those in which every one of ``words`` is found, in the order of a column; among equals the most reclaimable first."""
    wanted = words.casefold().split()
    found = [info for info in infos if _matches(info, wanted)]
    found.sort(key=lambda info: -info.reclaimable_bytes)
    found.sort(key=COLUMNS[column].key, reverse=COLUMNS[column].largest_first != backwards)
    return found


def _matches(info: ProcessInfo, wanted: list[str]) -> bool:
    parts = (str(info.process), users.name(info.uid), qos(info), info.pod_uid, info.container_id, info.cgroup, info.command, notes(info))
    searched = " ".join(parts).casefold()
    return all(word in searched for word in wanted)
