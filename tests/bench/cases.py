"""The kinds of victims: starved in two ways, idle, and in state D."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator
from contextlib import AbstractContextManager, contextmanager

from bench.rounds import Case, Stage
from mrelease.demo.budget import affordable
from mrelease.demo.gauges import NodeGauge
from mrelease.demo.scene import Scene

_SETTLE_SECONDS = 1.0
_GIB = 1 << 30
_MIB = 1 << 20


def cases(*, quick: bool, rounds: int | None) -> list[Case]:
    """Every case in the order in which they are reported; small and short where it must be ``quick``."""

    def case(
        name: str, size: int, limit: float, usual: int, stage: Callable[[int], AbstractContextManager[Stage]], title: str, about: str
    ) -> Case:
        wanted = 32 * _MIB if quick else affordable(size, 1)
        return Case(name, title, wanted, 2.0 if quick else limit, rounds or (1 if quick else usual), stage, about)

    return [
        case("starved", _GIB, 20, 3, starved, "Starved victim", "Busy, SCHED_IDLE, in a cgroup of least CPU weight where one can be made."),
        case(
            "idle-class",
            _GIB,
            20,
            2,
            idle_class,
            "Starved by SCHED_IDLE alone",
            "Busy, SCHED_IDLE: what a user who is not root can set up.",
        ),
        case("d-state", 256 * _MIB, 5, 3, d_state, "Victim in state D", "Waits for a FUSE file system that never answers."),
        case("idle", 2 * _GIB, 20, 15, idle, "Idle node", "Asleep, alone on the node: nobody can be faster than the exit itself."),
    ]


@contextmanager
def starved(size: int) -> Generator[Stage, None, None]:
    """A busy victim that gets next to no CPU time, two spinners a CPU."""
    with _starved(size, ("cpu", "memory")) as stage:
        yield stage


@contextmanager
def idle_class(size: int) -> Generator[Stage, None, None]:
    """The same without a CPU cgroup."""
    with _starved(size, ("memory",)) as stage:
        yield stage


@contextmanager
def idle(size: int) -> Generator[Stage, None, None]:
    """A sleeping victim with nobody else about."""
    with Scene("mrelease-bench", controllers=("memory",)) as scene:
        victim = scene.add_victim(size, busy=False)
        scene.wait_ready()
        yield Stage(victim.pid, victim.pidfd, scene.gauge(), "nothing", scene.relax)


@contextmanager
def d_state(size: int) -> Generator[Stage, None, None]:
    """A victim that SIGKILL puts into state D."""
    from support.lab.fuse import unkillable
    from support.lab.kernel import wait_readable

    with unkillable(size) as victim:

        def let_go() -> None:
            victim.let_go()
            wait_readable(victim.pidfd)

        # Its address space can be read all the while, so the node's figures are never needed.
        gauge = NodeGauge([victim.pid], lambda _: False)
        yield Stage(victim.pid, victim.pidfd, gauge, "a FUSE read", let_go)


@contextmanager
def _starved(size: int, controllers: Collection[str]) -> Generator[Stage, None, None]:
    with Scene("mrelease-bench", controllers=controllers) as scene:
        victim = scene.add_victim(size)
        scene.wait_ready()
        scene.add_spinners()
        how = scene.starve()
        time.sleep(_SETTLE_SECONDS)
        yield Stage(victim.pid, victim.pidfd, scene.gauge(), how, scene.relax)
