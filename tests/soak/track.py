"""What the observer saw of one kill: runs of equal samples, exits, marks. Times are CLOCK_MONOTONIC in nanoseconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Samples:
    """``count`` samples in a row which read the same; of the first and of the last one when it began and when it had ended."""

    first_begin: int
    first_end: int
    last_begin: int
    last_end: int
    count: int
    value: int


@dataclass(frozen=True, slots=True)
class Exit:
    """A process's pidfd: when it was last looked at and was not readable, and when first it was; 0 for never."""

    pid: int
    last_not: int
    readable: int


@dataclass(slots=True)
class Track:
    """One kill as the observer saw it. ``swap`` and ``shared`` were read once, before it; ``threads`` is their number then."""

    charges: list[Samples] = field(default_factory=list[Samples])
    anons: list[Samples] = field(default_factory=list[Samples])
    exits: list[Exit] = field(default_factory=list[Exit])
    begun: int = 0
    answered: int = 0
    longest_gap: int = 0
    swap: int = 0
    shared: int = 0
    threads: int = 0

    @property
    def samples(self) -> int:
        """How many times memory was read."""
        return sum(run.count for run in (*self.charges, *self.anons))


def before(runs: Iterable[Samples], time: int) -> Samples | None:
    """The last samples that had ended by ``time``, at least the first of them."""
    found = [run for run in runs if run.first_end <= time]
    return found[-1] if found else None


def after(runs: Iterable[Samples], time: int) -> Samples | None:
    """The first samples which began at ``time`` or later, at least the last of them."""
    return next((run for run in runs if run.last_begin >= time), None)


def first_below(runs: Iterable[Samples], since: int, limit: int) -> int:
    """When a sample that began at ``since`` or later first read ``limit`` or less; 0 where none did."""
    return next((max(run.first_begin, since) for run in runs if run.last_begin >= since and run.value <= limit), 0)


def parse(lines: Iterable[str]) -> Track:
    """Read what ``observer.c`` says after ``end``."""
    track = Track()
    for line in lines:
        kind, *words = line.split()
        if kind in "ca":
            (track.charges if kind == "c" else track.anons).append(Samples(*map(int, words)))
        elif kind == "x":
            track.exits.append(Exit(*map(int, words)))
        elif kind == "m":
            setattr(track, {"begin": "begun", "answer": "answered"}[words[0]], int(words[1]))
        elif kind == "g":
            track.longest_gap = int(words[0])
    return track
