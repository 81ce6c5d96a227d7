"""Whether victims would have to wait for CPU time. The load of the node is a file of the test's: nobody else decides what it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease_agent.boosting import busy
from mrelease_agent.linux.process import ProcessRef
from support import lab
from support.lab.child import holding, started

SMALL = 2 * lab.MIB
#: The one that reads is running.
SELF = 1
#: Far more than the agent's own threads here, which do not count.
MANY = 1000


@contextlib.contextmanager
def load(folder: Path, running: int) -> Generator[int, None, None]:
    file = folder / "loadavg"
    file.write_text(f"9.99 9.99 9.99 {running}/{running + 100} 4711\n")
    fd = os.open(file, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def contended(folder: Path, running: int, *victims: lab.Victim) -> bool:
    with load(folder, running) as fd, contextlib.ExitStack() as stack:
        return busy.contended([stack.enter_context(ProcessRef.open(victim.pid)) for victim in victims], fd)


def test_one_idle_cpu_of_those_that_it_may_use_is_enough(tmp_path: Path) -> None:
    cpus = len(os.sched_getaffinity(0))
    with lab.live(SMALL) as victim:
        assert not contended(tmp_path, SELF + cpus - 1, victim)
        assert contended(tmp_path, SELF + cpus + MANY, victim)


def test_cpus_that_it_may_not_use_do_not_count(tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    with holding(SMALL, cpu=cpu) as (_, victim, _):
        assert not contended(tmp_path, SELF, victim)
        assert contended(tmp_path, SELF + MANY, victim)


def test_victims_do_not_contend_with_themselves(tmp_path: Path) -> None:
    """A victim that runs on every CPU that it may use, and nothing else does: once it is dead, nobody is in its way."""
    cpu = max(os.sched_getaffinity(0))
    with started("victim.py", anon=SMALL, cpu=cpu) as child:
        child.hear("memory taken")
        child.ask("spin")
        victim = lab.Victim(child.pid, SMALL, child.pidfd)
        assert not contended(tmp_path, SELF + 1, victim)
        assert contended(tmp_path, SELF + 1 + MANY, victim)


def test_victims_that_are_gone_need_nothing(tmp_path: Path) -> None:
    with lab.live(SMALL) as victim, ProcessRef.open(victim.pid) as ref, load(tmp_path, MANY) as fd:
        victim.kill()
        os.waitid(os.P_PID, victim.pid, os.WEXITED)
        assert not busy.contended([ref], fd)
        assert not busy.contended([], fd)


@pytest.mark.parametrize(("victims", "threads"), [(1, 60), (18, 0)])
def test_many_threads_and_processes_are_judged_by_some_of_them(tmp_path: Path, victims: int, threads: int) -> None:
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(holding(0, threads=threads))[1] for _ in range(victims)]
        assert contended(tmp_path, SELF + MANY, *all_of_them)
