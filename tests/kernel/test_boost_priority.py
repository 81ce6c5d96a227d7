"""Victims whose threads are raised after the kill: class, nice value, CPUs."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from mrelease_agent.boosting.booster import Booster
from mrelease_agent.linux.scheduling import Raised
from support import lab
from support.boosted import booster, ref_to
from support.lab.child import holding
from support.lab.starvation import hogs

SMALL = 2 * lab.MIB
ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)


@pytest.fixture
def raiser() -> Generator[Booster, None, None]:
    lab.need_root("raising the priority of others")
    with booster(None) as made:
        yield made


def scheduling(pid: int) -> set[tuple[int, int, frozenset[int]]]:
    """Class, nice value and CPUs of each thread."""
    return {
        (
            os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK,
            os.getpriority(os.PRIO_PROCESS, tid),
            frozenset(os.sched_getaffinity(tid)),
        )
        for tid in lab.threads(pid)
    }


def test_starved_victim_is_raised_and_may_use_every_cpu(raiser: Booster) -> None:
    cpus = frozenset(os.sched_getaffinity(0))
    with holding(SMALL, idle=True, cpu=max(cpus)) as (_, victim, _), lab.hold_at_exit(victim) as hold, ref_to(victim) as ref:
        victim.kill()
        hold.wait_held()
        raised = raiser.prioritise(ref)
        assert raised
        ((policy, nice, now),) = scheduling(victim.pid)
        assert now == cpus
        assert (policy == os.SCHED_RR) == (raised is Raised.REALTIME)
        assert policy == os.SCHED_RR or (policy, nice) == (os.SCHED_OTHER, -20)


def test_every_thread_is_raised_and_no_other_process(raiser: Booster) -> None:
    with (
        lab.many_threads(10, SMALL) as victim,
        lab.live(SMALL) as neighbour,
        lab.hold_at_exit(victim) as hold,
        ref_to(victim) as ref,
    ):
        before, own = scheduling(neighbour.pid), scheduling(os.getpid())
        victim.kill()
        hold.wait_held()
        assert raiser.prioritise(ref)
        assert len(scheduling(victim.pid)) == 1
        assert scheduling(victim.pid) != before
        assert scheduling(neighbour.pid) == before
        assert scheduling(os.getpid()) == own


def test_victim_that_real_time_has_already_keeps_its_class(raiser: Booster) -> None:
    with lab.live(SMALL) as victim, lab.hold_at_exit(victim) as hold, ref_to(victim) as ref:
        try:
            os.sched_setscheduler(victim.pid, os.SCHED_FIFO, os.sched_param(10))
        except PermissionError:
            raise lab.Unavailable("real time is refused here") from None
        victim.kill()
        hold.wait_held()
        assert raiser.prioritise(ref) is Raised.REALTIME
        assert os.sched_getscheduler(victim.pid) == os.SCHED_FIFO
        assert os.sched_getparam(victim.pid).sched_priority == 10


def test_process_that_is_gone_is_not_raised(raiser: Booster) -> None:
    with lab.live(SMALL) as victim, ref_to(victim) as ref:
        victim.kill()
        os.waitid(os.P_PID, victim.pid, os.WEXITED)
        assert not raiser.prioritise(ref)


def test_starved_victim_dies_beside_busy_neighbours(raiser: Booster) -> None:
    cpu = max(os.sched_getaffinity(0))
    with holding(SMALL, idle=True, cpu=cpu) as (_, victim, _), hogs(2, cpu), ref_to(victim) as ref:
        victim.kill()
        raiser.prioritise(ref)
        assert victim.exited()


# Whether it is needed


def test_victim_is_boosted_where_others_want_its_cpu(raiser: Booster) -> None:
    cpu = max(os.sched_getaffinity(0))
    with holding(SMALL, cpu=cpu) as (_, victim, _), hogs(2, cpu), ref_to(victim) as ref:
        assert raiser.needed(ref)
