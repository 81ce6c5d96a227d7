"""Containers whose processes are not just alive: paused, stopped, stuck, of every kind at once. One request, a right verdict on each."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Generator

import pytest

from mrelease import Client, Container, Outcome, Verdict
from support import lab
from support.lab import MIB
from support.lab.cgroups import cgroup_below

SIZE = 16 * MIB

pytestmark = pytest.mark.usefixtures("process_mrelease")


@contextlib.contextmanager
def container() -> Generator[tuple[Container, lab.Cgroup]]:
    cid = secrets.token_hex(32)
    with lab.memory_cgroup() as top, cgroup_below(top, f"k8s.io/{cid}") as group:
        yield Container(cid), group


@pytest.mark.parametrize(
    ("controller", "file", "frozen", "thawed", "watched", "settled"),
    [
        ("freezer", "freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN"),
        ("", "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1"),
    ],
    ids=["v1", "v2"],
)
def test_a_paused_container(node: Client, controller: str, file: str, frozen: str, thawed: str, watched: str, settled: str) -> None:
    """As `docker pause` leaves it. Frozen by v1 nobody exits before the thaw, and the memory is back all the same."""
    with container() as (target, group), lab.cgroup(controller) as elsewhere, contextlib.ExitStack() as stack:
        # A process is in one group of each hierarchy: with v2 alone the container is frozen by its own.
        freezer = group if group.version == elsewhere.version == 2 else elsewhere
        victims = [stack.enter_context(lab.live(SIZE, within=[group, freezer])) for _ in range(3)]
        freezer.write(file, frozen)
        stack.callback(freezer.write, file, thawed)
        lab.until(lambda: settled in freezer.read(watched), "the container is frozen")
        result = node.kill_and_release(target, timeout=30)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result
        assert {process.pid for process in result.processes} == {victim.pid for victim in victims}
        assert result.released_bytes >= 3 * SIZE * 0.98
        assert all(lab.rss_anon(victim.pid) < SIZE // 100 for victim in victims)
        freezer.write(file, thawed)
        assert all(victim.exited() for victim in victims)


def test_a_container_of_every_kind(node: Client) -> None:
    """Alive, stopped, in D state with its main thread and behind a zombie leader, sharing its address space, with shared memory, with
    20,000 mappings, with huge pages: all in one.
    """
    with container() as (target, group), contextlib.ExitStack() as stack:
        enter, within = stack.enter_context, [group]
        stopped = enter(lab.live(SIZE, within=within))
        signal.pidfd_send_signal(stopped.pidfd, signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        shared = enter(lab.clone_vm_sharer(SIZE, within=within))
        stuck = enter(lab.unkillable(SIZE, within=within)), enter(lab.unkillable(SIZE, worker=True, within=within))
        others = (
            enter(lab.live(SIZE, within=within)),
            enter(lab.shmem(MIB, anon=SIZE, within=within)),
            enter(lab.many_vmas(20_000, size=SIZE, within=within)),
            enter(lab.thp(SIZE, within=within)),
        )
        outside = enter(lab.live(MIB))

        result = node.kill_and_release(target, timeout=60)
        assert result.verdict is Verdict.RELEASED, result
        members = {stopped.pid, shared.pid, shared.sharer_pid, *(victim.pid for victim in (*stuck, *others))}
        found = {process.pid: process for process in result.processes}
        assert found.keys() == members
        assert all(found[victim.pid].outcome is Outcome.RELEASED for victim in stuck)
        assert all(found[victim.pid].state == "D" for victim in stuck[:1])
        assert all(lab.rss_anon(pid) < SIZE // 100 for pid in members)
        assert result.released_bytes >= 8 * SIZE * 0.98
        assert not outside.exited(0)


def test_a_container_that_terminates_with_one_thread_stuck(node: Client) -> None:
    """What keeps pods Terminating: killed by somebody else, its first thread has exited and another one never will."""
    with container() as (target, group), lab.unkillable(SIZE, worker=True, within=[group]) as victim:
        victim.kill()
        lab.until(lambda: lab.state(victim.pid) == "Z", "the first thread has exited")
        result = node.release(target, timeout=30)
        assert result.verdict is Verdict.RELEASED, result
        assert [process.pid for process in result.processes] == [victim.pid]
        assert result.released_bytes >= SIZE * 0.98
