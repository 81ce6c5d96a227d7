"""A pid that has become another process's: 1,000 tries, and not one process signalled that was not meant (DESIGN §2.8)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mrelease import Client, Feature, NodeRef, Outcome, Process, Verdict, errors
from support import lab
from support.lab.readers import flags

PF_EXITING, PF_SIGNALED = 0x4, 0x400  # linux/sched.h
TRIES, AT_ONCE = 1000, 50
RACES = 300


@pytest.fixture
def inodes(node: Client) -> None:
    """Skips where processes cannot be told apart within one clock tick."""
    if not node.get_node().can(Feature.PIDFD_INODE):
        raise lab.Unavailable("all pidfds share one inode here (before Linux 6.9)")


def asleep(pid: int) -> bool:
    """Sleeping with no SIGKILL behind it: as soon as one is sent it is pending, then the process is dying, never again asleep."""
    fields = lab.status_fields(pid)
    pending = int(fields.get("SigPnd", "0"), 16) | int(fields.get("ShdPnd", "0"), 16)
    return fields.get("State", "")[:1] == "S" and not pending and not flags(pid) & (PF_EXITING | PF_SIGNALED)


def untouched(pid: int) -> bool:
    """The process, which may just have been made, comes to sleep instead of dying."""
    gone = ("Z", "X", "")
    lab.until(lambda: lab.state(pid) in gone or asleep(pid), f"process {pid} sleeps or is dead")
    return lab.state(pid) not in gone


@contextlib.contextmanager
def opened(pid: int) -> Generator[int, None, None]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def listed(node: Client, pids: set[int]) -> tuple[dict[int, Process], NodeRef]:
    """What identifies each process, from ListProcesses."""
    found = node.list_processes(limit=None)
    return {info.pid: info.target for info in found if info.pid in pids}, found.node


@pytest.mark.usefixtures("inodes")
def test_1000_recycled_pids_and_not_one_wrong_process_signalled(node: Client) -> None:
    with lab.pid_reuse() as reuse:
        pids = [reuse.spawn() for _ in range(AT_ONCE)]
        for _ in range(TRIES // AT_ONCE):
            targets, here = listed(node, set(pids))
            assert targets.keys() == set(pids)
            for pid in pids:
                target = targets[pid]
                assert target.pidfd_inode
                assert target.start_time_ticks
                reuse.reuse(pid)
                with pytest.raises(errors.IdentityMismatch) as caught:
                    node.kill_and_release(target, node=here)
                assert caught.value.metadata["field"] == "target.process.pidfd_inode"
                assert caught.value.nothing_signalled
            assert all(map(untouched, pids))


def test_start_time_alone_tells_processes_of_different_ticks_apart(node: Client) -> None:
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        old = lab.start_time(pid)
        while lab.start_time(pid) == old:
            reuse.reuse(pid)
        with pytest.raises(errors.IdentityMismatch) as caught:
            node.kill_and_release(Process(pid, start_time_ticks=old))
        assert caught.value.metadata["field"] == "target.process.start_time_ticks"
        assert untouched(pid)


@pytest.mark.usefixtures("inodes")
def test_release_of_a_recycled_pid_is_refused_too(node: Client) -> None:
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        with opened(pid) as old:
            target = Process(pid, pidfd_inode=os.fstat(old).st_ino)
        reuse.reuse(pid)
        with pytest.raises(errors.IdentityMismatch):
            node.release(target)
        assert untouched(pid)


@pytest.mark.usefixtures("inodes")
def test_a_pid_recycled_while_the_request_is_in_flight(node: Client) -> None:
    """Each request kills the process that it means, or nobody: the one that has the pid afterwards is never touched."""
    seen: set[str] = set()
    with lab.pid_reuse() as reuse, ThreadPoolExecutor(1) as pool:
        pid = reuse.spawn()
        for _ in range(RACES):
            with opened(pid) as meant:
                inode = os.fstat(meant).st_ino
                flying = pool.submit(node.kill_and_release, Process(pid, pidfd_inode=inode))
                reuse.reuse(pid)
                try:
                    result = flying.result(30)
                except (errors.IdentityMismatch, errors.ProcessNotFound) as refused:
                    seen.add(refused.reason)
                else:
                    (process,) = result.processes
                    seen.add(process.outcome.name)
                    assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
                    assert process.outcome in (Outcome.RELEASED, Outcome.EXITED)
                    assert process.process.pidfd_inode == inode
                    assert lab.wait_readable(meant)
            assert untouched(pid)
    assert seen <= {"IDENTITY_MISMATCH", "PROCESS_NOT_FOUND", "RELEASED", "EXITED"}


@pytest.mark.usefixtures("inodes")
def test_many_requests_in_flight_while_their_pids_are_recycled(node: Client) -> None:
    with lab.pid_reuse() as reuse, ThreadPoolExecutor(16) as pool:
        pids = [reuse.spawn() for _ in range(AT_ONCE)]

        def kill(target: Process) -> str:
            try:
                return node.kill_and_release(target).processes[0].outcome.name
            except (errors.IdentityMismatch, errors.ProcessNotFound) as refused:
                return refused.reason

        for _ in range(4):
            targets, _here = listed(node, set(pids))
            flying = [pool.submit(kill, targets[pid]) for pid in pids]
            for pid in pids:
                reuse.reuse(pid)
            assert {call.result(30) for call in flying} <= {"IDENTITY_MISMATCH", "PROCESS_NOT_FOUND", "RELEASED", "EXITED"}
            assert all(map(untouched, pids))
