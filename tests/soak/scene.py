"""A victim that is set up to be killed, and what is known of it that the agent is not told."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.programs import Started, running
from mrelease import Process, Target
from soak.programs import Programs
from support import lab

#: Seconds for what cannot happen.
HOPELESS = 0.3
PAGE = os.sysconf("SC_PAGESIZE")


def nothing() -> None:
    """No cue is needed."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One victim or group. ``pids`` are watched one by one, ``charge`` is the file with the charge of the cgroup that has their memory.

    ``inside``: bytes of private memory that are charged there, as the victim was told to take them. ``timeout``: what the agent gets, in
    seconds. ``cue`` is called right before the kill. ``killed``: somebody has sent SIGKILL already. ``racing``: it exits by itself about
    now, so it may be gone or hold less. ``whole``: all members of this cgroup are the target; ``forking``: they become more.
    ``stays``: it cannot exit, even when its memory is back.
    """

    pids: list[int]
    target: Target
    charge: Path | None
    inside: int
    timeout: float = 20.0
    cue: Callable[[], None] = nothing
    killed: bool = False
    racing: bool = False
    whole: lab.Cgroup | None = None
    forking: bool = False
    stays: bool = False


@dataclass(slots=True)
class Slot:
    """What one worker has for all its victims, one after another. Groups are None where this machine has none of the kind."""

    number: int
    programs: Programs
    folder: Path
    memory: lab.Cgroup | None
    pods: lab.Cgroup | None
    light: lab.Cgroup | None
    freezer: lab.Cgroup | None
    unified: lab.Cgroup | None
    file: Path = field(default_factory=Path)

    @property
    def within(self) -> list[lab.Cgroup]:
        """Where a victim's memory is charged."""
        return [self.memory] if self.memory else []

    @property
    def charge(self) -> Path | None:
        """The file with that charge."""
        return charge_of(self.memory) if self.memory else None

    def charged_without_victims(self) -> int:
        """The charge when nobody is left of the victims before, such as who shared the memory of one: page cache. Raises TimeoutError."""
        if self.memory is None:
            return 0
        members = self.memory.path / "cgroup.procs"
        lab.until(lambda: not members.read_text(), f"{self.memory.path} is empty")
        return self.memory.usage()

    @contextlib.contextmanager
    def victim(self, *flags: str | int | Path, groups: list[lab.Cgroup] | None = None) -> Generator[tuple[Started, int]]:
        """``victim.c``, and the pid that it names, its own or the first member's of its group."""
        enter = [word for group in (*self.within, *(groups or [])) for word in ("-g", group.path / "cgroup.procs")]
        with running([self.programs.victim, "-p", os.getpid(), *enter, *flags]) as started:
            yield started, int(started.hear()[1])

    def scene(self, pid: int, inside: int, timeout: float = 20.0) -> Scene:
        """One process that the machine lets die."""
        return Scene([pid], Process(pid), self.charge, inside, timeout)


def charge_of(group: lab.Cgroup) -> Path:
    """What is charged to a cgroup with all below it; on v1 with its swap."""
    both = group.path / "memory.memsw.usage_in_bytes"
    one = group.path / ("memory.current" if group.version == 2 else "memory.usage_in_bytes")
    return both if both.exists() else one


@contextlib.contextmanager
def slot(number: int, programs: Programs, folder: Path) -> Generator[Slot]:
    """The surroundings of one worker, gone at the end."""
    with ExitStack() as stack:

        def one(make: Callable[[], AbstractContextManager[lab.Cgroup]]) -> lab.Cgroup | None:
            try:
                return stack.enter_context(make())
            except lab.Unavailable:
                return None

        made = Slot(
            number,
            programs,
            folder,
            memory=one(lab.memory_cgroup),
            pods=one(lab.memory_cgroup),
            light=one(lambda: lab.cpu_cgroup(1)),
            freezer=one(lambda: lab.cgroup("freezer")),
            unified=one(lab.cgroup),
        )
        made.file = folder / f"mapped-{number}"
        made.file.write_bytes(b"\x5a" * (8 * lab.MIB))
        stack.callback(made.file.unlink)
        yield made


def some(rng: random.Random, most: int = 96) -> int:
    """A size in bytes: mostly some MiB, at most ``most``, no round number."""
    return min(most, rng.choice((1, 2, 4, 8, 16, 16, 32, 32, 64, 96))) * lab.MIB + rng.randrange(256) * PAGE
