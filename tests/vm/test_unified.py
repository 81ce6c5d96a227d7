"""What only cgroup v2 has: groups that die as a whole, of the OOM killer or by being told to, and groups that are frozen."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator

import pytest

from mrelease import Client, Container, Outcome, Process, Verdict, Wait
from support import lab
from support.lab import exhaust
from support.lab.cgroups import cgroup_below

SIZE = 32 * lab.MIB

pytestmark = pytest.mark.usefixtures("process_mrelease")


@contextlib.contextmanager
def container() -> Generator[tuple[str, lab.Cgroup], None, None]:
    cid = secrets.token_hex(32)
    with lab.memory_cgroup() as pod, cgroup_below(pod, f"k8s.io/{cid}", ["memory"]) as group:
        yield cid, group


def test_one_process_of_a_group_that_dies_as_a_whole_of_the_oom_killer_dies_alone(node: Client) -> None:
    with container() as (_, group), lab.live(SIZE, within=[group]) as victim, lab.live(SIZE, within=[group]) as other:
        group.write("memory.oom.group", "1")
        (killed,) = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).processes
        assert killed.outcome in (Outcome.RELEASED, Outcome.EXITED), killed
        assert not other.exited(0)


def test_what_the_oom_killer_left_stuck_is_released(node: Client) -> None:
    """The group is killed as a whole for one process that wants too much; another one of it cannot die."""
    with container() as (cid, group), lab.unkillable(SIZE, within=[group]) as stuck, lab.live(SIZE, within=[group]) as other:
        group.write("memory.oom.group", "1")
        group.write("memory.max", str(2 * SIZE + 16 * lab.MIB))
        with exhaust.allocating(2 * SIZE, within=[group]) as greedy:
            assert other.exited()
            assert lab.wait_readable(greedy.pidfd)
        lab.until(lambda: lab.state(stuck.pid) == "D", "the OOM killer has killed it too")
        (found,) = node.release(Container(cid), timeout=60).processes
        assert found.process.pid == stuck.pid
        assert found.outcome is Outcome.RELEASED, found
        assert lab.rss_anon(stuck.pid) <= SIZE // 100
        assert not stuck.exited(0)


def test_a_frozen_container_dies_and_gives_all_back(node: Client) -> None:
    with contextlib.ExitStack() as stack:
        cid, group = stack.enter_context(container())
        victims = [stack.enter_context(lab.live(SIZE, within=[group])) for _ in range(3)]
        group.write("cgroup.freeze", "1")
        stack.callback(group.write, "cgroup.freeze", "0")
        lab.until(lambda: "frozen 1" in group.read("cgroup.events"), "the freezing")
        result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=60)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result
        assert result.released_bytes >= 3 * SIZE * 0.98
        assert all(victim.exited(0) for victim in victims)


def test_a_process_without_a_memory_controller_of_its_own_is_charged_with_the_cgroup_above(node: Client) -> None:
    """As in a container of podman's, which has a cgroup of its own below the one that counts."""
    with lab.memory_cgroup() as scope, cgroup_below(scope, "container") as inner, lab.live(SIZE, within=[inner]) as victim:
        (killed,) = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).processes
        assert killed.cgroup is not None
        assert killed.cgroup.path == f"/{scope.path.name}"
        assert killed.cgroup.before_bytes - killed.cgroup.after_bytes >= SIZE * 0.9
