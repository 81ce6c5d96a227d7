"""The kinds of victims that the lab makes: of Python, with file systems that do not answer, debuggers, swap."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from mrelease import Process
from soak.kinds import CHEAP, Kind, Make
from soak.scene import HOPELESS, Scene, Slot, some
from support import lab


class _Lab(Protocol):
    def __call__(self, size: int, *, within: Iterable[lab.Cgroup]) -> AbstractContextManager[lab.Victim]: ...


def of(make: _Lab, *, killed: bool = False, stays: bool = True, timeout: float = 20.0) -> Make:
    """A victim of the lab that is charged to the slot's cgroup. ``killed``: the lab has done that."""

    @contextlib.contextmanager
    def scene(slot: Slot, rng: random.Random) -> Generator[Scene]:
        size = some(rng, 32)
        with make(size, within=slot.within) as victim:
            # Of one that was killed the kernel tells no size any more, and its memory may be back.
            yield Scene([victim.pid], Process(victim.pid), slot.charge, size, timeout, killed=killed, stays=stays)

    return scene


def uncharged(make: Callable[[int], AbstractContextManager[lab.Victim]], timeout: float = 20.0) -> Make:
    """A victim that the lab does not put into a cgroup: only statm and the pidfd can be watched."""

    @contextlib.contextmanager
    def scene(slot: Slot, rng: random.Random) -> Generator[Scene]:
        size = some(rng, 32)
        with make(size) as victim:
            yield Scene([victim.pid], Process(victim.pid), None, size, timeout)

    return scene


@contextlib.contextmanager
def traced(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Alive, with a tracer that will hold it at its exit."""
    size = some(rng)
    with slot.victim("-a", size) as (started, pid):
        victim = lab.Victim(pid, size, started.pidfd)
        with lab.hold_at_exit(victim):
            yield replace(slot.scene(pid, size), stays=True)


def _stuck_worker(size: int, *, within: Iterable[lab.Cgroup]) -> AbstractContextManager[lab.Victim]:
    return lab.unkillable(size, worker=True, within=within)


def _past_exit_mm(slot: Slot, rng: random.Random) -> AbstractContextManager[Scene]:
    """Past exit_mm, but held at closing its files: what it had is back before anybody asks."""

    @contextlib.contextmanager
    def scene() -> Generator[Scene]:
        with lab.past_exit_mm(some(rng, 8), within=slot.within) as victim:
            yield Scene([victim.pid], Process(victim.pid), slot.charge, 0, HOPELESS, killed=True, stays=True)

    return scene()


FROM_LAB = [
    Kind("traced", traced),
    Kind("state D, FUSE", of(lab.unkillable), 12),
    Kind("state D, FUSE, leader gone", of(_stuck_worker), 12),
    Kind("state D, killed before", of(lab.d_state, killed=True), 8),
    Kind("state D, frozen file system", of(lab.frozen_fs), 4),
    Kind("held at exit, killed before", of(lab.held_at_exit, killed=True), 8),
    Kind("inside exit_mm", of(lab.inside_exit_mm, killed=True, timeout=HOPELESS), 8),
    Kind("past exit_mm", _past_exit_mm, 8),
    Kind("mmap_lock held", of(lab.mmap_locked, timeout=HOPELESS), 4),
    Kind("pinned", of(lab.pinned, timeout=HOPELESS), 8),
    Kind("shares its memory (CLONE_VM)", of(lab.clone_vm_sharer, timeout=HOPELESS), 8),
    Kind("shares its memory (vfork)", of(lab.vfork_sharer, timeout=HOPELESS), 8),
    Kind("swapped out", uncharged(lab.swapped), 3, alone=True),
    Kind("hugetlb pages", uncharged(lambda size: lab.hugetlb(2, anon=size)), 4, alone=True),
    Kind("dumping core", uncharged(lab.core_dumping), 4, alone=True),
    Kind("dumping core, stuck", uncharged(lab.core_dump_stuck, HOPELESS), 2, alone=True),
]

KINDS = {kind.name: kind for kind in (*CHEAP, *FROM_LAB)}
