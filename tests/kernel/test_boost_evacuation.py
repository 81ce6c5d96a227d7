"""Victims that are moved to a cgroup of the agent's before the kill, and what becomes of them: v1's cpu hierarchy, and v2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mrelease_agent.boosting.booster import WORTH_MOVING, Booster
from mrelease_agent.boosting.trees import Trees
from mrelease_agent.linux.cgroup_tree import Tree, tree
from support import lab
from support.boosted import booster, cpu_tree, is_in, leaf_of, leaves_for, path_of, ref_to
from support.lab.cgroups import cgroup_below
from support.lab.child import holding
from support.lab.starvation import Pod, pod, starved_below

SMALL = 2 * lab.MIB
PATIENT = 60.0


@dataclass(slots=True)
class Place:
    """A group of the lab in one hierarchy, and a booster that works there."""

    tree: Tree
    group: lab.Cgroup
    booster: Booster
    made: contextlib.ExitStack

    def make(self, path: str) -> lab.Cgroup:
        return self.made.enter_context(cgroup_below(self.group, path))

    def victim(self, group: lab.Cgroup | None = None) -> lab.Victim:
        return self.made.enter_context(lab.live(SMALL, within=[group or self.group]))


@pytest.fixture(params=["cpu", "unified"])
def place(request: pytest.FixtureRequest) -> Generator[Place, None, None]:
    lab.need_root("moving processes between cgroups")
    where = tree(request.param)
    if where is None:
        raise lab.Unavailable(f"no {request.param} hierarchy is mounted")
    with lab.cgroup("cpu" if where.version == 1 else "") as group, booster(None, Trees(where)) as made, contextlib.ExitStack() as stack:
        yield Place(where, group, made, stack)


@pytest.fixture
def starving() -> Generator[Pod, None, None]:
    lab.need_root("moving processes between cgroups")
    with pod() as made:
        yield made


# Moved, and back


def test_evacuated_process_is_in_a_cgroup_of_the_agents_and_goes_back_when_it_was_not_killed(place: Place) -> None:
    victim = place.victim()
    with ref_to(victim) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert evacuation.moved == {victim.pid}
        assert evacuation.strays() == [victim.pid]
        leaf = leaf_of(victim.pid, place.tree)
        assert leaf is not None
        assert evacuation.close()
        assert is_in(victim.pid, place.group, place.tree)
        assert not leaf.exists()
        assert evacuation.close()  # harmless when repeated


def test_leaf_has_the_highest_weight_at_the_top_of_the_hierarchy(starving: Pod) -> None:
    before = starving.weights()
    with booster(None) as made, lab.live(SMALL, within=[starving.container]) as victim, ref_to(victim) as ref:
        evacuation = made.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        leaf = leaf_of(victim.pid, cpu_tree())
        assert leaf is not None
        assert (leaf.parent / starving.file).read_text().strip() == starving.highest
        if starving.container.version == 1:  # in v2 the leaf itself has no weight: its processes count as the folder's
            assert (leaf / starving.file).read_text().strip() == starving.highest
        assert starving.weights() == before
        assert evacuation.close()


def test_starved_victim_that_was_evacuated_dies(starving: Pod) -> None:
    with starved_below(starving) as victim, booster(None) as made, ref_to(victim) as ref:
        evacuation = made.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert evacuation.moved == {victim.pid}
        victim.kill()
        assert victim.exited()
        lab.until(evacuation.close, "the leaf is removed")
        assert not leaves_for(starving.container, cpu_tree())


def test_every_thread_is_moved_and_put_back(place: Place) -> None:
    with lab.many_threads(20) as victim, ref_to(victim) as ref:
        place.group.add(victim.pid)
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert {path_of_thread(victim.pid, tid, place.tree) for tid in lab.threads(victim.pid)} == {path_of(victim.pid, place.tree)}
        assert evacuation.close()
        home = path_of(victim.pid, place.tree)
        assert is_in(victim.pid, place.group, place.tree)
        assert {path_of_thread(victim.pid, tid, place.tree) for tid in lab.threads(victim.pid)} == {home}


def test_process_whose_main_thread_has_exited_counts_as_moved(place: Place) -> None:
    with lab.zombie_leader() as victim, ref_to(victim) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert evacuation.moved == {victim.pid}
        victim.kill()
        assert victim.exited()
        lab.until(evacuation.close, "the leaf is removed")


def test_processes_of_several_cgroups_each_go_back_to_their_own(place: Place) -> None:
    groups = [place.make("a/b"), place.make("a/c"), place.group]
    victims = [place.victim(group) for group in groups]
    with contextlib.ExitStack() as stack:
        refs = [stack.enter_context(ref_to(victim)) for victim in victims]
        evacuation = place.booster.evacuate(refs, PATIENT, 0)
        assert evacuation is not None
        assert evacuation.moved == {victim.pid for victim in victims}
        assert evacuation.close()
    for victim, group in zip(victims, groups, strict=True):
        assert is_in(victim.pid, group, place.tree)


def test_process_of_the_top_goes_back_to_the_top(place: Place) -> None:
    with lab.live(SMALL) as victim, ref_to(victim) as ref:
        home = path_of(victim.pid, place.tree)
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert leaf_of(victim.pid, place.tree) is not None
        assert evacuation.close()
        assert path_of(victim.pid, place.tree) == home


def test_nobody_runs_in_a_leaf_of_v2_where_no_limit_of_its_own_cgroup_holds_it() -> None:
    lab.need_root("moving processes between cgroups")
    where = tree("unified")
    if where is None:
        raise lab.Unavailable("no v2 hierarchy is mounted")
    with (
        lab.cgroup() as group,
        booster(None, Trees(where)) as made,
        holding(SMALL, within=[group]) as (child, victim, _),
        ref_to(victim) as ref,
    ):
        evacuation = made.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        leaf = leaf_of(victim.pid, where)
        assert leaf is not None
        child.order("leave")  # it would exit
        lab.until(lambda: "frozen 1" in (leaf / "cgroup.events").read_text(), "it is frozen")
        assert not victim.exited(0)
        assert evacuation.close()
        assert victim.exited()


def test_evacuated_victim_dies_of_sigkill_and_nothing_else_is_needed(place: Place) -> None:
    with lab.many_threads(5, SMALL) as victim, ref_to(victim) as ref:
        place.group.add(victim.pid)
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        victim.kill()
        assert victim.exited()
        lab.until(evacuation.close, "the leaf is removed")


def test_children_forked_meanwhile_on_v1_are_strays_and_go_back_too() -> None:
    lab.need_root("moving processes between cgroups")
    where = cpu_tree()
    if where.version == 2:
        raise lab.Unavailable("in v2 evacuees do not run")
    with (
        lab.cgroup("cpu") as group,
        booster(None, Trees(where)) as made,
        subprocess.Popen(["sh", "-c", "read _; sleep infinity & wait"], stdin=subprocess.PIPE) as forker,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(forker.kill)
        assert forker.stdin
        group.add(forker.pid)
        ref = stack.enter_context(ref_to(forker.pid))
        evacuation = made.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        forker.stdin.write(b"\n")
        forker.stdin.flush()
        lab.until(lambda: len(evacuation.strays()) == 2, "the child is there")
        (child,) = set(evacuation.strays()) - {forker.pid}
        stack.callback(stack.enter_context(ref_to(child)).send_signal, 9)
        assert evacuation.close()
        assert is_in(forker.pid, group, where)
        assert is_in(child, group, where)


def test_where_the_cgroup_is_gone_it_goes_back_to_what_is_left_above(place: Place) -> None:
    inner = place.group.path / "inner"
    inner.mkdir()
    with lab.live(SMALL, within=[lab.Cgroup(inner, place.group.version)]) as victim, ref_to(victim) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        inner.rmdir()
        assert evacuation.close()
        assert is_in(victim.pid, place.group, place.tree)


def test_cgroup_of_v1_that_was_renamed_meanwhile_is_found() -> None:
    lab.need_root("moving processes between cgroups")
    where = cpu_tree()
    if where.version == 2:
        raise lab.Unavailable("v2 does not rename cgroups")
    with lab.cgroup("cpu") as group, contextlib.ExitStack() as stack, booster(None, Trees(where)) as made:
        inner, renamed = group.path / "inner", group.path / "renamed"
        inner.mkdir()
        stack.callback(lambda: lab.until(lambda: _removed(renamed), "the group is removed"))
        with lab.live(SMALL, within=[lab.Cgroup(inner, 1)]) as victim, ref_to(victim) as ref:
            evacuation = made.evacuate([ref], PATIENT, 0)
            assert evacuation is not None
            inner.rename(renamed)
            assert evacuation.close()
            assert is_in(victim.pid, lab.Cgroup(renamed, 1), where)


# Not moved


def test_time_is_kept_and_the_first_given_goes_first(place: Place) -> None:
    first, second = place.victim(), place.victim()
    with ref_to(first) as one, ref_to(second) as other:
        evacuation = place.booster.evacuate([one, other], 0, 0)
        assert evacuation is not None
        assert evacuation.moved == {first.pid}
        assert is_in(second.pid, place.group, place.tree)
        assert evacuation.close()


def test_what_is_small_is_not_worth_a_move(place: Place) -> None:
    victim = place.victim()
    with ref_to(victim) as ref:
        assert place.booster.evacuate([ref], PATIENT) is None
        assert is_in(victim.pid, place.group, place.tree)
    with lab.live(WORTH_MOVING, within=[place.group]) as big, ref_to(big) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT)
        assert evacuation is not None
        assert evacuation.close()


def test_process_that_has_exited_is_not_said_to_be_moved(place: Place) -> None:
    with lab.zombie() as victim, ref_to(victim) as ref:
        assert place.booster.evacuate([ref], PATIENT, 0) is None
    with lab.live(SMALL, within=[place.group]) as victim, ref_to(victim) as ref:
        os.kill(victim.pid, 9)
        os.waitid(os.P_PID, victim.pid, os.WEXITED)
        assert place.booster.evacuate([ref], PATIENT, 0) is None
    assert not leaves_for(place.group, place.tree)


def test_process_that_another_operation_moved_is_left_to_it(place: Place) -> None:
    victim = place.victim()
    with ref_to(victim) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        assert place.booster.evacuate([ref], PATIENT, 0) is None
        assert leaf_of(victim.pid, place.tree) is not None
        assert evacuation.close()
        assert is_in(victim.pid, place.group, place.tree)


def test_threaded_cgroup_of_v2_is_left_alone_since_its_threads_could_not_be_put_back() -> None:
    lab.need_root("moving processes between cgroups")
    where = tree("unified")
    if where is None:
        raise lab.Unavailable("no v2 hierarchy is mounted")
    with lab.cgroup() as group, cgroup_below(group, "threads") as below, booster(None, Trees(where)) as made:
        below.write("cgroup.type", "threaded")
        with lab.live(SMALL, within=[group]) as victim, ref_to(victim) as ref:
            assert group.read("cgroup.type") == "domain threaded"
            assert made.evacuate([ref], PATIENT, 0) is None
            assert is_in(victim.pid, group, where)


# Until it is dead


def test_dying_one_keeps_its_leaf_until_it_has_exited(place: Place) -> None:
    with lab.live(SMALL, within=[place.group]) as victim, lab.hold_at_exit(victim) as hold, ref_to(victim) as ref:
        evacuation = place.booster.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        leaf = leaf_of(victim.pid, place.tree)
        assert leaf is not None
        victim.kill()
        hold.wait_held()
        assert not evacuation.close()
        assert leaf_of(victim.pid, place.tree) == leaf
        hold.let_go()
        assert victim.exited()
        lab.until(evacuation.close, "the leaf is removed")
        assert not leaf.exists()


def test_many_threads_may_evacuate_at_once(place: Place) -> None:
    victims = [place.victim() for _ in range(4)]
    wrong: list[str] = []

    def one(victim: lab.Victim) -> None:
        with ref_to(victim) as ref:
            for _ in range(3):
                evacuation = place.booster.evacuate([ref], PATIENT, 0)
                if evacuation is None or set(evacuation.moved) != {victim.pid} or not evacuation.close():
                    wrong.append(f"{victim.pid}: {evacuation}")

    threads = [threading.Thread(target=one, args=(victim,)) for victim in victims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(is_in(victim.pid, place.group, place.tree) for victim in victims)
    assert not leaves_for(place.group, place.tree)


# v1: other hierarchies


def test_victim_confined_to_some_cpus_by_a_cpuset_is_freed_of_it_and_confined_again() -> None:
    lab.need_root("moving processes between cgroups")
    trees = Trees.find()
    if trees.cpuset is None:
        raise lab.Unavailable("no cpuset hierarchy of v1 is mounted")
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise lab.Unavailable("this machine has one CPU")
    with lab.cgroup("cpuset") as group, booster(None) as made:
        group.write("cpuset.mems", (group.path.parent / "cpuset.mems").read_text())
        group.write("cpuset.cpus", str(cpus[-1]))
        with lab.live(SMALL, within=[group]) as victim, ref_to(victim) as ref:
            assert os.sched_getaffinity(victim.pid) == {cpus[-1]}
            evacuation = made.evacuate([ref], PATIENT, 0)
            assert evacuation is not None
            assert os.sched_getaffinity(victim.pid) > {cpus[-1]}
            assert evacuation.close()
            assert os.sched_getaffinity(victim.pid) == {cpus[-1]}
            assert is_in(victim.pid, group, trees.cpuset)


def test_victim_frozen_by_v1_exits_when_it_is_moved_out_after_the_kill_and_not_before() -> None:
    lab.need_root("moving processes between cgroups")
    if Trees.find().freezer is None:
        raise lab.Unavailable("no freezer of v1 is mounted")
    with lab.frozen_v1(SMALL) as victim, lab.live(SMALL) as warm, booster(None) as made, ref_to(victim) as ref, ref_to(warm) as other:
        assert made.frozen(ref)
        assert not made.frozen(other)
        assert made.thaw([ref, other], PATIENT) is None  # both live: thawed, it would run on
        assert made.frozen(ref)
        victim.kill()
        warm.kill()
        assert warm.exited()
        evacuation = made.thaw([ref, other], PATIENT)
        assert evacuation is not None
        assert evacuation.moved == {victim.pid}
        assert victim.exited()
        lab.until(evacuation.close, "the leaf is removed")


def path_of_thread(pid: int, tid: int, where: Tree) -> str | None:
    return where.path_in(Path(f"/proc/{pid}/task/{tid}/cgroup").read_bytes())


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()
