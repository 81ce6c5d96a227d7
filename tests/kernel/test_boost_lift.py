"""CPU weights that are lifted above a victim, and restored: in whatever order operations end, and whoever else writes them."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease_agent.boosting.booster import Booster
from mrelease_agent.boosting.journal import NAME
from support import lab
from support.boosted import booster, ref_to
from support.lab.cgroups import cgroup_below
from support.lab.starvation import Pod, pod, starved_below

SMALL = 2 * lab.MIB


@pytest.fixture
def starving() -> Generator[Pod, None, None]:
    lab.need_root("writing CPU weights")
    with pod() as made:
        yield made


@pytest.fixture
def lifter(tmp_path: Path) -> Generator[Booster, None, None]:
    with booster(tmp_path) as made:
        yield made


@pytest.fixture
def victim(starving: Pod) -> Generator[lab.Victim, None, None]:
    with lab.live(SMALL, within=[starving.container]) as made:
        yield made


def idle(group: lab.Cgroup) -> bool:
    return (group.path / "cpu.idle").exists()


def test_every_cgroup_above_the_victim_is_lifted_no_other_and_all_are_restored(
    starving: Pod, victim: lab.Victim, lifter: Booster, tmp_path: Path
) -> None:
    before, sibling = starving.weights(), starving.sibling.read(starving.file)
    with ref_to(victim) as ref:
        lift = lifter.lift([ref])
    assert lift is not None
    assert starving.weights() == [starving.highest] * 3
    assert starving.sibling.read(starving.file) == sibling
    assert (tmp_path / NAME).stat().st_size
    lift.close()
    assert starving.weights() == before
    assert not (tmp_path / NAME).stat().st_size
    lift.close()  # harmless when repeated
    assert starving.weights() == before


def test_starved_victim_dies_when_all_above_it_is_lifted_after_the_kill(starving: Pod, lifter: Booster) -> None:
    with starved_below(starving) as victim, ref_to(victim) as ref:
        before = starving.weights()
        victim.kill()
        lift = lifter.lift([ref])
        assert victim.exited()
        if lift is not None:  # None: it was faster
            lift.close()
        assert starving.weights() == before


@pytest.mark.parametrize("first_ends_first", [True, False])
def test_operations_under_one_cgroup_restore_it_once_when_the_last_ends(
    starving: Pod, victim: lab.Victim, lifter: Booster, *, first_ends_first: bool
) -> None:
    before = starving.weights()
    with lab.live(SMALL, within=[starving.sibling]) as other, ref_to(victim) as ref, ref_to(other) as other_ref:
        first, second = lifter.lift([ref]), lifter.lift([other_ref])
        assert first is not None
        assert second is not None
        assert starving.sibling.read(starving.file) == starving.highest
        ends, stays = (first, second) if first_ends_first else (second, first)
        ends.close()
        assert starving.best_effort.read(starving.file) == starving.highest
        assert (starving.weights()[1:] == before[1:]) == first_ends_first
        stays.close()
        assert starving.weights() == before


def test_two_agents_restore_the_first_ones_value(starving: Pod, victim: lab.Victim, tmp_path: Path) -> None:
    before = starving.weights()
    for first_ends_first in (True, False):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "b").mkdir(exist_ok=True)
        with booster(tmp_path / "a") as one, booster(tmp_path / "b") as other, ref_to(victim) as ref:
            lifts = [lift for lift in (one.lift([ref]), other.lift([ref])) if lift is not None]
            for lift in lifts if first_ends_first else reversed(lifts):
                lift.close()
        assert starving.weights() == before


def test_what_somebody_else_has_written_meanwhile_is_left(starving: Pod, victim: lab.Victim, lifter: Booster) -> None:
    before = starving.weights()
    with ref_to(victim) as ref:
        lift = lifter.lift([ref])
        assert lift is not None
        starving.pod.write(starving.file, "77")
        lift.close()
    assert starving.weights() == [before[0], "77", before[2]]


def test_what_somebody_else_has_written_is_what_a_later_lift_restores(starving: Pod, victim: lab.Victim, lifter: Booster) -> None:
    before = starving.weights()
    with ref_to(victim) as ref:
        first = lifter.lift([ref])
        starving.pod.write(starving.file, "77")
        second = lifter.lift([ref])
        assert first is not None
        assert second is not None
        assert starving.weights() == [starving.highest] * 3
        first.close()
        second.close()
    assert starving.weights() == [before[0], "77", before[2]]


def test_idle_cgroup_is_lifted_and_idle_again(starving: Pod, victim: lab.Victim, lifter: Booster) -> None:
    if not idle(starving.pod):
        raise lab.Unavailable("cpu.idle came with Linux 5.15")
    starving.pod.write("cpu.idle", "1")
    before = starving.weights()
    with ref_to(victim) as ref:
        lift = lifter.lift([ref])
        assert lift is not None
        assert starving.pod.read("cpu.idle") == "0"
        assert starving.weights() == [starving.highest] * 3
        lift.close()
    assert starving.pod.read("cpu.idle") == "1"
    assert starving.weights() == before


def test_limit_is_lifted_and_restored(starving: Pod, victim: lab.Victim, lifter: Booster) -> None:
    file, value, none = ("cpu.max", "5000 50000", "max 50000") if starving.pod.version == 2 else ("cpu.cfs_quota_us", "5000", "-1")
    starving.pod.write(file, value)
    with ref_to(victim) as ref:
        lift = lifter.lift([ref])
        assert lift is not None
        assert starving.pod.read(file) == none
        lift.close()
    assert starving.pod.read(file) == value
    starving.pod.write(file, none.split()[0])


def test_cgroup_that_is_gone_needs_no_restoring(starving: Pod, lifter: Booster, tmp_path: Path) -> None:
    with cgroup_below(starving.sibling, "inner", ["cpu"]) as inner, lab.live(SMALL, within=[inner]) as victim, ref_to(victim) as ref:
        lift = lifter.lift([ref])
        assert lift is not None
    lift.close()
    assert starving.sibling.read(starving.file) == "100" if inner.version == 2 else "1024"
    assert not (tmp_path / NAME).stat().st_size


def test_victim_of_the_top_has_nothing_above_it(lifter: Booster) -> None:
    lab.need_root("a process at the top")
    with lab.live(SMALL) as victim, ref_to(victim) as ref:
        assert lifter.lift([ref]) is None


def test_without_a_journal_nothing_is_lifted(starving: Pod, victim: lab.Victim) -> None:
    before = starving.weights()
    with booster(None) as made, ref_to(victim) as ref:
        assert made.lift([ref]) is None
    assert starving.weights() == before


def test_many_threads_may_lift_at_once(starving: Pod, lifter: Booster, tmp_path: Path) -> None:
    before, sibling = starving.weights(), starving.sibling.read(starving.file)
    with lab.live(SMALL, within=[starving.container]) as one, lab.live(SMALL, within=[starving.sibling]) as other:

        def work(victim: lab.Victim) -> None:
            with ref_to(victim) as ref:
                for _ in range(20):
                    lift = lifter.lift([ref])
                    if lift is not None:
                        lift.close()

        threads = [threading.Thread(target=work, args=(victim,)) for victim in (one, other) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert starving.weights() == before
    assert starving.sibling.read(starving.file) == sibling
    assert not (tmp_path / NAME).stat().st_size
