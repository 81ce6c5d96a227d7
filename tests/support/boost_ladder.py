"""Measures the rungs of boosting: ``PYTHONPATH=tests python -m support.boost_ladder [--rounds N] [--size MIB] [--only NAME,...]``.

Root only, on an otherwise idle machine. docs/explanation/boost.md has its tables.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrelease_agent.boosting.booster import Booster
from support import lab
from support.boosted import ref_to
from support.lab.child import holding
from support.lab.starvation import Pod, hogs, pod

CAP = 8.0
"""Seconds after which a victim is given up."""
REAP_DELAY = 0.005
SETTLE = 1.0
_CPUS = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Round:
    """One victim's death, in seconds: what the boost took before the signal and after; memory back and exit, CAP where never."""

    boost: float
    back: float
    exit: float


@contextlib.contextmanager
def starved(victim: lab.Victim) -> Generator[None, None, None]:
    """In a container below two cgroups of the least weight, with hogs in it, beside its pod and outside."""
    with pod() as made, contextlib.ExitStack() as stack:
        made.container.add(victim.pid)
        for cpu in _CPUS:
            stack.enter_context(hogs(1, cpu, made.container))
            stack.enter_context(hogs(1, cpu, made.sibling))
            stack.enter_context(hogs(2, cpu))
        made.weigh(least=True)
        stack.callback(lambda: _release(made, victim))
        yield


@contextlib.contextmanager
def pinned(victim: lab.Victim) -> Generator[None, None, None]:
    """Bound to one CPU, at nice 19, with four hogs there; the other CPUs are idle."""
    os.setpriority(os.PRIO_PROCESS, victim.pid, 19)
    os.sched_setaffinity(victim.pid, {_CPUS[-1]})
    with hogs(4, _CPUS[-1]):
        yield


@contextlib.contextmanager
def idle_class(victim: lab.Victim) -> Generator[None, None, None]:
    """SCHED_IDLE in the root cgroup, with two hogs on each CPU."""
    os.sched_setscheduler(victim.pid, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.ExitStack() as stack:
        for cpu in _CPUS:
            stack.enter_context(hogs(2, cpu))
        yield


@contextlib.contextmanager
def limited(victim: lab.Victim) -> Generator[None, None, None]:
    """In a cgroup that may use 1 % of a CPU, on an idle node."""
    with pod() as made:
        made.container.add(victim.pid)
        file, value, none = ("cpu.max", "1000 100000", "max") if made.pod.version == 2 else ("cpu.cfs_quota_us", "1000", "-1")
        made.pod.write(file, value)
        try:
            yield
        finally:
            made.pod.write(file, none)
            _release(made, victim)


@contextlib.contextmanager
def frozen(victim: lab.Victim) -> Generator[None, None, None]:
    """Frozen by the freezer of v1."""
    with lab.cgroup("freezer") as group:
        group.add(victim.pid)
        group.write("freezer.state", "FROZEN")
        lab.until(lambda: group.read("freezer.state") == "FROZEN", "the freezer")
        try:
            yield
        finally:
            group.write("freezer.state", "THAWED")
            victim.exited()


SCENES: dict[str, tuple[Callable[[lab.Victim], contextlib.AbstractContextManager[None]], Sequence[str]]] = {
    "starved": (starved, ("kill", "reap", "priority", "lift", "evacuate")),
    "pinned": (pinned, ("kill", "reap", "priority", "evacuate")),
    "idle-class": (idle_class, ("kill", "reap", "priority", "evacuate")),
    "limited": (limited, ("kill", "reap", "priority", "lift", "evacuate")),
    "frozen": (frozen, ("kill", "reap", "thaw")),
}


def one(booster: Booster, scene: str, rung: str, size: int) -> Round:
    """Kill one victim."""
    with lab.memory_cgroup() as memory, holding(size, within=[memory]) as (_, victim, _facts), contextlib.ExitStack() as stack:
        stack.enter_context(SCENES[scene][0](victim))
        time.sleep(SETTLE)
        held = memory.usage()
        ref = stack.enter_context(ref_to(victim))
        took = 0.0
        start = time.monotonic()
        if rung == "evacuate":
            evacuation = booster.evacuate([ref], 1, 0)
            took = time.monotonic() - start
            assert evacuation is not None
            stack.callback(lambda: lab.until(evacuation.close, "the leaf"))
        victim.kill()
        told = time.monotonic()
        if rung == "priority":
            booster.prioritise(ref)
        elif rung == "lift":
            lift = booster.lift([ref])
            assert lift is not None
            stack.callback(lift.close)
        elif rung == "thaw":
            thawed = booster.thaw([ref], 1)
            assert thawed is not None
            stack.callback(lambda: lab.until(thawed.close, "the leaf"))
        took += time.monotonic() - told
        if rung != "kill" and not victim.exited(REAP_DELAY):
            lab.mrelease(victim.pidfd)
        back, exit_ = _watch(victim, memory, held - size * 0.95, start)
        return Round(took, back, exit_)


def _watch(victim: lab.Victim, memory: lab.Cgroup, freed: float, start: float) -> tuple[float, float]:
    back = exit_ = CAP
    while (now := time.monotonic() - start) < CAP and CAP in (back, exit_):
        if back == CAP and memory.usage() <= freed:
            back = now
        if exit_ == CAP and victim.exited(0):
            exit_ = now
        time.sleep(0.0005)
    return back, exit_


def _release(made: Pod, victim: lab.Victim) -> None:
    """The victim may die at last: its cgroup cannot be removed before."""
    made.weigh(least=False)
    victim.kill()
    victim.exited()


def moves(booster: Booster, rounds: int, *, busy: bool) -> None:
    """What moving many processes takes, in milliseconds."""
    with contextlib.ExitStack() as stack:
        for cpu in _CPUS if busy else ():
            stack.enter_context(hogs(2, cpu))
        group = stack.enter_context(lab.cgroup("cpu"))
        processes = [stack.enter_context(subprocess.Popen(["sleep", "infinity"])) for _ in range(1000)]
        for process in processes:
            stack.callback(process.kill)
            group.add(process.pid)
        refs = [stack.enter_context(ref_to(process.pid)) for process in processes]
        for count in (1, 10, 100, 1000):
            took: list[float] = []
            for _ in range(rounds):
                time.sleep(0.3)  # else the grace period before is still good
                start = time.monotonic()
                evacuation = booster.evacuate(refs[:count], 60, 0)
                took.append(1e3 * (time.monotonic() - start))
                assert evacuation is not None
                assert len(evacuation.moved) == count
                lab.until(evacuation.close, "the leaf")
            print(f"| {'busy' if busy else 'idle'} | {count} | {statistics.median(took):.1f} | {max(took):.1f} |", flush=True)


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024, help="MiB")
    parser.add_argument("--only", default=",".join([*SCENES, "moves"]))
    options = parser.parse_args()
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    with tempfile.TemporaryDirectory() as folder:
        booster = Booster(Path(folder))
        with contextlib.closing(booster):
            if "moves" in options.only:
                for busy in (False, True):
                    moves(booster, options.rounds, busy=busy)
            for scene, (_, rungs) in SCENES.items():
                for rung in rungs if scene in options.only.split(",") else ():
                    done = [one(booster, scene, rung, options.size * lab.MIB) for _ in range(options.rounds)]
                    print(f"| {scene} | {rung} | {_cell(d.boost for d in done)} | {_cells(done)} |", flush=True)


def _cells(done: Sequence[Round]) -> str:
    return f"{_cell(d.back for d in done)} | {_cell(d.exit for d in done)}"


def _cell(seconds: Generator[float, None, None]) -> str:
    """Median and maximum in milliseconds."""
    values = list(seconds)
    middle, worst = statistics.median(values), max(values)
    if middle >= CAP:
        return f"never in {CAP:g} s"
    return f"{1e3 * middle:.1f} ({'never' if worst >= CAP else f'{1e3 * worst:.1f}'})"


if __name__ == "__main__":
    main()
