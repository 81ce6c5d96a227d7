"""Victims ready to be killed: each a context manager that makes everything and leaves nothing."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import SkipTest

from bench.containers import Containers
from bench.gauge import Charge
from bench.ground import LEAST, USUAL, Ground, Group
from bench.programs import Programs, Started, running, wait_readable
from bench.swap import swap_file
from mrelease.demo.gauges import Gauge, NodeGauge

_SETTLE_SECONDS = 1.0
#: A hog ends by itself after so many seconds, should nobody be left to end it.
_BACKSTOP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Stage:
    """A victim, or a cgroup of victims with one ``pid`` that exits after all of them.

    ``how`` says what holds it back; ``relax`` lets it exit once the measurement is over. ``group`` is where it is, ``whole`` whether all
    of that group is to be killed; ``container`` is the id of its container.
    """

    pid: int
    pidfd: int
    gauge: Gauge
    how: str
    relax: Callable[[], None]
    group: Group | None = None
    whole: bool = False
    container: str = ""
    processes: int = 1


class Hogs:
    """Processes that use all that they get of one CPU each. Free to move, all would crowd on some CPUs now and then."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._hogs: list[Started] = []

    def add(self, group: Group | None, cpu: int) -> None:
        """Start one in ``group``."""
        enter = group.enter if group is not None else []
        hog = Started([self._programs.victim, "-p", os.getpid(), *enter, "-c", cpu, "spin", _BACKSTOP_SECONDS])
        self._hogs.append(hog)
        hog.hear()

    def end(self) -> None:
        """End all at once: each is signalled before the first is waited for."""
        for hog in self._hogs:
            hog.kill()
        while self._hogs:
            self._hogs.pop().end()


@dataclass(slots=True)
class Bench:
    """What stages are made with. ``stack`` ends with the run."""

    programs: Programs
    ground: Ground
    stack: ExitStack
    containers: Containers | None = None
    _swap: int = field(default=0)

    @contextmanager
    def hold(
        self, size: int, group: Group | None, *flags: str | int | Path, contained: bool = False
    ) -> Generator[tuple[int, int, str], None, None]:
        """A victim of ``size`` bytes in ``group``: pid, pidfd, and the id of its container where it is ``contained``."""
        if contained:
            assert self.containers is not None
            assert group is not None
            with self.containers.hold(size, group, *map(str, flags)) as held:
                yield held
            return
        enter = group.enter if group is not None else []
        with running([self.programs.victim, "-p", os.getpid(), *enter, *flags, "hold", size]) as victim:
            victim.hear()
            yield victim.pid, victim.pidfd, ""

    def memory_group(self, *more: str) -> Group | None:
        """A group for one victim whose charge can be read, or None where there is none to be had."""
        return self.ground.group("victim", ["memory", *more]) if self.ground.has("memory", *more) else None

    def gauge(self, group: Group | None, pid: int, pidfd: int) -> Gauge:
        """The best way to measure what the victim holds."""
        if group is not None and group.charges:
            return Charge(group.charges)
        return NodeGauge([pid], lambda _: wait_readable(pidfd, 0))

    def need_swap(self, size: int) -> None:
        """Have at least ``size`` bytes of swap until the end of the run. Raises SkipTest."""
        if self._swap < size:
            self.stack.enter_context(swap_file(size))
            self._swap = size


@contextmanager
def starved(bench: Bench, size: int, contained: bool) -> Generator[Stage, None, None]:
    """A busy victim as in a BestEffort pod on a full node: little CPU weight, and less above it.

    Per CPU one hog in the victim's own cgroup, one in another pod of its class and two outside.
    """
    ground = bench.ground
    hogs = Hogs(bench.programs)
    with ground.cleared():
        kind = ground.group("besteffort", ["cpu"])
        pod, other, outside = (ground.group(name, ["cpu"]) for name in ("besteffort/pod", "besteffort/other", "burstable"))
        inside, own = ground.group("besteffort/pod/container", ["cpu"]), ground.group("besteffort/pod/container", ["cpu", "memory"])
        weights = [kind.weigh(LEAST), pod.weigh(LEAST), own.weigh(USUAL)]
        other.weigh(LEAST)
        outside.weigh(USUAL)
        with bench.hold(size, own, "-b", contained=contained) as (pid, pidfd, container):
            try:
                for cpu in sorted(os.sched_getaffinity(0)):
                    for group in (inside, other, outside, outside):
                        hogs.add(group, cpu)
                time.sleep(_SETTLE_SECONDS)
                how = f"{_nested(weights)}, hogs inside and outside"
                yield Stage(pid, pidfd, bench.gauge(own, pid, pidfd), how, hogs.end, own, container=container)
            finally:
                hogs.end()


@contextmanager
def pinned(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A starved victim that may use one CPU alone, which is busy, while the others are idle."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise SkipTest("one CPU: there is no other that could be idle")
    hogs = Hogs(bench.programs)
    with bench.ground.cleared():
        kind, outside = (bench.ground.group(name, ["cpu"]) for name in ("besteffort", "burstable"))
        own = bench.ground.group("besteffort/container", ["cpu", "memory", "cpuset"])
        weight = kind.weigh(LEAST)
        own.write("cpuset", "cpuset.cpus", str(cpus[-1]))
        with bench.hold(size, own, "-b") as (pid, pidfd, _id):
            try:
                for _hog in range(4):
                    hogs.add(outside, cpus[-1])
                time.sleep(_SETTLE_SECONDS)
                how = f"{weight} and a cpuset of one CPU with four hogs"
                yield Stage(pid, pidfd, bench.gauge(own, pid, pidfd), how, hogs.end, own)
            finally:
                hogs.end()


@contextmanager
def sched_idle(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A busy victim of the class SCHED_IDLE and two hogs a CPU: what a user who is not root can set up."""
    hogs = Hogs(bench.programs)
    with bench.ground.cleared():
        group = bench.memory_group()
        with bench.hold(size, group, "-b", "-i") as (pid, pidfd, _id):
            gauge = bench.gauge(group, pid, pidfd)
            try:
                for cpu in sorted(os.sched_getaffinity(0)):
                    for _hog in range(2):
                        hogs.add(None, cpu)
                time.sleep(_SETTLE_SECONDS)
                yield Stage(pid, pidfd, gauge, "SCHED_IDLE, hogs of the normal class", hogs.end, group)
            finally:
                hogs.end()


@contextmanager
def idle(bench: Bench, size: int, contained: bool) -> Generator[Stage, None, None]:
    """A sleeping victim with nobody else about."""
    with _asleep(bench, size, contained=contained) as stage:
        yield stage


@contextmanager
def huge(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A sleeping victim in transparent huge pages."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        raise SkipTest("transparent huge pages are off")
    with _asleep(bench, size, "-H") as stage:
        yield stage


@contextmanager
def mappings(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A sleeping victim with 20,000 mappings of one page beside its memory."""
    count = 20_000
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if count + 500 > limit:
        raise SkipTest(f"vm.max_map_count is {limit}")
    with _asleep(bench, size, "-m", count) as stage:
        yield stage


@contextmanager
def swapped(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A sleeping victim, half of it in swap."""
    bench.need_swap(size)
    with _asleep(bench, size) as stage:
        group = stage.group
        if group is None:
            raise SkipTest("no memory cgroup can be made here, and nothing else makes the kernel swap one process out")
        version = group.folders["memory"][0].version
        limit, none = ("memory.max", "max") if version == 2 else ("memory.limit_in_bytes", "-1")
        try:
            group.write("memory", limit, str(size // 2))
        except OSError as error:  # EBUSY: it could not be made to fit
            raise SkipTest(f"the kernel does not swap here: {error.strerror}") from None
        group.write("memory", limit, none)
        yield stage


@contextmanager
def stopped(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A victim in state T, by SIGSTOP."""
    with _asleep(bench, size, how="SIGSTOP") as stage:
        signal.pidfd_send_signal(stage.pidfd, signal.SIGSTOP)
        os.waitid(os.P_PID, stage.pid, os.WSTOPPED | os.WNOWAIT)
        yield stage


@contextmanager
def frozen(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A victim frozen by the v1 freezer."""
    with bench.ground.cleared():
        own = bench.ground.group("victim", ["memory", "freezer"])
        if own.folders["freezer"][0].version != 1:
            raise SkipTest("no v1 freezer; frozen victims of v2 die")
        with bench.hold(size, own) as (pid, pidfd, _id):

            def relax() -> None:
                own.write("freezer", "freezer.state", "THAWED")

            own.write("freezer", "freezer.state", "FROZEN")
            try:
                while own.read("freezer", "freezer.state") != "FROZEN":
                    time.sleep(0.001)
                yield Stage(pid, pidfd, bench.gauge(own, pid, pidfd), "the v1 freezer", relax, own)
            finally:
                relax()


@contextmanager
def d_state(bench: Bench, size: int, _: bool) -> Generator[Stage, None, None]:
    """A victim that SIGKILL puts into state D: it waits for a FUSE file system that never answers."""
    from support.lab.fuse import unkillable

    del bench
    with unkillable(size) as victim:
        # A thread that keeps the address space shows it to the end, so the node's figures are never needed.
        yield Stage(victim.pid, victim.pidfd, NodeGauge([victim.pid], lambda _: False), "a FUSE read", victim.let_go)


@contextmanager
def crowd(bench: Bench, size: int, _: bool, count: int = 1000) -> Generator[Stage, None, None]:
    """A container of many processes, ``size`` bytes all together: a cgroup that has a container's name."""
    ground = bench.ground
    with ground.cleared():
        group = ground.group(secrets.token_hex(32), ["memory", "unified"] if ground.has("unified") else ["memory"])
        count = min(count, size >> 20)
        with running([bench.programs.victim, "-p", os.getpid(), *group.enter, "crowd", count, size // count]) as maker:
            found = len(maker.hear()) - 1
            gauge = bench.gauge(group, maker.pid, maker.pidfd)
            yield Stage(maker.pid, maker.pidfd, gauge, "nothing", _nothing, group, True, processes=found)


@contextmanager
def _asleep(bench: Bench, size: int, *flags: str | int, contained: bool = False, how: str = "nothing") -> Generator[Stage, None, None]:
    with bench.ground.cleared():
        group = bench.memory_group()
        with bench.hold(size, group, *flags, contained=contained) as (pid, pidfd, container):
            yield Stage(pid, pidfd, bench.gauge(group, pid, pidfd), how, _nothing, group, False, container)


def _nested(weights: list[str]) -> str:
    return weights[0].split()[0] + " " + " / ".join(weight.split()[1] for weight in weights)


def _nothing() -> None:
    pass
