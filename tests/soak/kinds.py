"""The kinds of victims that are processes of ``victim.c``: cheap, so most kills are of these. ``lab_kinds.py`` has the rest."""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from mrelease import Cgroup, Container, Pod
from soak.scene import PAGE, Scene, Slot, charge_of, some
from support import lab
from support.lab.cgroups import cgroup_below, in_hierarchy

Make = Callable[[Slot, random.Random], AbstractContextManager[Scene]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of victim: of so many kills in a thousand or so. ``alone``: one at a time on the machine."""

    name: str
    make: Make
    weight: int = 30
    alone: bool = False


def plain(*flags: str, most: int = 96) -> Make:
    """One process with private memory, told ``flags`` too."""

    @contextlib.contextmanager
    def make(slot: Slot, rng: random.Random) -> Generator[Scene]:
        size = some(rng, most)
        with slot.victim("-a", size, *flags) as (_, pid):
            yield slot.scene(pid, size)

    return make


@contextlib.contextmanager
def with_neighbour(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Not alone in its cgroup: the charge is no proof then."""
    size = some(rng)
    with slot.victim("-a", 4 * lab.MIB), slot.victim("-a", size) as (_, pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def stopped(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """In state T."""
    size = some(rng)
    with slot.victim("-a", size) as (_, pid):
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        yield slot.scene(pid, size)


@contextlib.contextmanager
def frozen_v1(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Frozen by v1: it cannot exit."""
    if slot.freezer is None or slot.freezer.version != 1:
        raise lab.Unavailable("no v1 freezer")
    size = some(rng)
    with slot.victim("-a", size, groups=[slot.freezer]) as (_, pid):
        slot.freezer.write("freezer.state", "FROZEN")
        try:
            lab.until(lambda: slot.freezer is None or slot.freezer.read("freezer.state") == "FROZEN", "the freezer")
            yield replace(slot.scene(pid, size), stays=True)
        finally:
            slot.freezer.write("freezer.state", "THAWED")


@contextlib.contextmanager
def frozen_v2(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Frozen by v2: SIGKILL ends it."""
    if slot.unified is None:
        raise lab.Unavailable("no v2 cgroup")
    if slot.memory is not None and slot.memory.version == 2:
        raise lab.Unavailable("nobody is in two groups of v2")
    size = some(rng)
    with slot.victim("-a", size, groups=[slot.unified]) as (_, pid):
        slot.unified.write("cgroup.freeze", "1")
        try:
            lab.until(lambda: slot.unified is None or "frozen 1" in slot.unified.read("cgroup.events"), "the freezing")
            yield slot.scene(pid, size)
        finally:
            slot.unified.write("cgroup.freeze", "0")


@contextlib.contextmanager
def threads(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Up to 64 threads."""
    size = some(rng)
    with slot.victim("-a", size, "-n", rng.randrange(1, 64)) as (_, pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def leader_gone(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """The main thread is a zombie: its statm reads 0."""
    size = some(rng)
    with slot.victim("-a", size, "-n", rng.randrange(1, 8), "-L") as (_, pid):
        lab.until(lambda: lab.state(pid) == "Z", f"the leader of process {pid} is a zombie")
        yield slot.scene(pid, size)


@contextlib.contextmanager
def shmem(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Shared anonymous memory beside the private: no reaping gives that back."""
    size = some(rng)
    with slot.victim("-a", size, "-s", some(rng, 16)) as (_, pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def tmpfs(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """It wrote a file of a tmpfs, whose pages are charged to its cgroup and stay."""
    size, file = some(rng), Path(f"/dev/shm/mrelease-soak-{os.getpid()}")
    try:
        with slot.victim("-a", size, "-t", some(rng, 16), "-w", file) as (_, pid):
            yield slot.scene(pid, size)
    finally:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def memfd(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """A file in memory that goes with its last descriptor, that is with the exit."""
    size = some(rng)
    with slot.victim("-a", size, "-t", some(rng, 16)) as (_, pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def mapped_file(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """It has read a private mapping of a file: page cache, not its own."""
    size = some(rng)
    with slot.victim("-a", size, "-f", slot.file) as (_, pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def mappings(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Thousands of mappings of a page each."""
    size, count = some(rng, 16), rng.randrange(1000, 8000)
    with slot.victim("-a", size, "-m", count) as (_, pid):
        yield slot.scene(pid, size + count * PAGE)


@contextlib.contextmanager
def light(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """In a cgroup of the least CPU weight: starved where the machine is busy."""
    if slot.light is None:
        raise lab.Unavailable("no cgroup that counts CPU time")
    size = some(rng)
    least, most = ("2", "1024") if slot.light.version == 1 else ("1", "100")
    file = "cpu.shares" if slot.light.version == 1 else "cpu.weight"
    with slot.victim("-a", size) as (_, pid):
        slot.light.add(pid)  # only now: it would be starved while it takes its memory, too
        slot.light.write(file, least)
        try:
            yield slot.scene(pid, size)
        finally:
            slot.light.write(file, most)


@contextlib.contextmanager
def pinned_idle(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """SCHED_IDLE on one CPU, with a process of its own that wants the same CPU: starved also where the machine is idle."""
    size, cpu = some(rng), rng.choice(sorted(os.sched_getaffinity(0)))
    with slot.victim("-a", size, "-c", cpu) as (_, pid), slot.victim("-S", "-c", cpu), _idle(pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def sched_idle(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """Starved where the machine is busy."""
    size = some(rng)
    with slot.victim("-a", size) as (_, pid), _idle(pid):
        yield slot.scene(pid, size)


@contextlib.contextmanager
def _idle(pid: int) -> Generator[None]:
    """SCHED_IDLE, until the comparison is over: then it may end."""
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def zombie(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """It has exited and nobody has reaped it."""
    size = some(rng, 8)
    with slot.victim("-a", size, "-z") as (started, pid):
        lab.until(lambda: lab.wait_readable(started.pidfd, 0), f"the exit of process {pid}")
        yield replace(slot.scene(pid, 0), racing=True)


@contextlib.contextmanager
def exit_race(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """It exits by itself at about the moment of the kill."""
    size, delay = some(rng), int(rng.triangular(0, 20_000, 2_000))
    with slot.victim("-a", size, "-x", delay) as (started, pid):
        yield replace(slot.scene(pid, size), racing=True, cue=started.order)


@contextlib.contextmanager
def _members(slot: Slot, group: lab.Cgroup, size: int, count: int, more: int = 0) -> Generator[list[int]]:
    """``count`` processes and their first parent in a group; none is left at the end, whoever they have forked."""
    flags = ("-g", group.path / "cgroup.procs", "-a", size, "-k", count, "-K", more)
    try:
        with _bare(slot, *flags):
            yield _pids(group)
    finally:
        lab.until(lambda: not _kill(group), f"{group.path} is empty")


def _bare(slot: Slot, *flags: str | int | Path) -> AbstractContextManager[object]:
    from bench.programs import running

    @contextlib.contextmanager
    def ready() -> Generator[object]:
        with running([slot.programs.victim, "-p", os.getpid(), *flags]) as started:
            started.hear()
            yield started

    return ready()


def _pids(group: lab.Cgroup) -> list[int]:
    return [int(pid) for pid in group.read("cgroup.procs").split()]


def _kill(group: lab.Cgroup) -> list[int]:
    pids = _pids(group)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def group_of(forking: bool) -> Make:
    """Several processes in a cgroup, all of which are the target; ``forking``: some hundred more come while they are killed."""

    @contextlib.contextmanager
    def make(slot: Slot, rng: random.Random) -> Generator[Scene]:
        if slot.memory is None:
            raise lab.Unavailable("no memory cgroup")
        size, count = (some(rng, 1), rng.randrange(4, 12)) if forking else (some(rng, 8), rng.randrange(2, 12))
        with _members(slot, slot.memory, size, count, rng.randrange(50, 300) if forking else 0) as pids:
            yield Scene(
                pids,
                Cgroup(in_hierarchy(slot.memory)),
                slot.charge,
                size * (count + 1),
                whole=slot.memory,
                forking=forking,
            )

    return make


@contextlib.contextmanager
def container(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """A container of a BestEffort pod, by its id."""
    if slot.pods is None:
        raise lab.Unavailable("no memory cgroup")
    size, count, name = some(rng, 16), rng.randrange(1, 6), secrets.token_hex(32)
    with (
        cgroup_below(slot.pods, f"kubepods/besteffort/pod{uuid.uuid4()}/{name}", ["memory"]) as group,
        _members(slot, group, size, count) as pids,
    ):
        yield Scene(pids, Container(name), charge_of(group), size * (count + 1), whole=group)


@contextlib.contextmanager
def pod(slot: Slot, rng: random.Random) -> Generator[Scene]:
    """A pod of two containers, by its uid."""
    if slot.pods is None:
        raise lab.Unavailable("no memory cgroup")
    size, count, uid = some(rng, 8), rng.randrange(1, 4), str(uuid.uuid4())
    below = f"kubepods/burstable/pod{uid}"
    with (
        cgroup_below(slot.pods, f"{below}/{secrets.token_hex(32)}", ["memory"]) as one,
        cgroup_below(slot.pods, f"{below}/{secrets.token_hex(32)}", ["memory"]) as other,
        _members(slot, one, size, count) as pids,
        _members(slot, other, size, count) as more,
    ):
        above = lab.Cgroup(one.path.parent, one.version)
        yield Scene([*pids, *more], Pod(uid), charge_of(above), 2 * size * (count + 1), whole=above)


CHEAP = [
    Kind("live", plain(), 120),
    Kind("busy writer", plain("-b"), 60),
    Kind("with a neighbour", with_neighbour),
    Kind("stopped", stopped),
    Kind("frozen, v1", frozen_v1),
    Kind("frozen, v2", frozen_v2),
    Kind("threads", threads),
    Kind("leader gone", leader_gone),
    Kind("shared memory", shmem),
    Kind("tmpfs file", tmpfs),
    Kind("memfd", memfd),
    Kind("mapped file", mapped_file),
    Kind("mlocked", plain("-l")),
    Kind("huge pages (THP)", plain("-H")),
    Kind("many mappings", mappings),
    Kind("SCHED_IDLE", sched_idle, 50),
    Kind("SCHED_IDLE, one busy CPU", pinned_idle, 40),
    Kind("least CPU weight", light, 50),
    Kind("zombie", zombie, 20),
    Kind("exit races the kill", exit_race, 60),
    Kind("cgroup", group_of(forking=False)),
    Kind("cgroup that forks", group_of(forking=True), 10),
    Kind("container", container),
    Kind("pod", pod),
]
