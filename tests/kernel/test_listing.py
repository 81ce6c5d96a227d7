"""What ListProcesses says that a death would not give back: shared memory, huge pages, and an address space that others have too."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mrelease import Client, Container, ProcessInfo, Unreleased, UnreleasedCause
from mrelease_agent.reaping import sharer_search
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.sharer_search import SharerSearch
from support import lab
from support.agent import running_agent
from support.lab.cgroups import cgroup_below

SIZE = 32 * lab.MIB


def row(node: Client, pid: int) -> ProcessInfo:
    return next(info for info in node.list_processes(limit=None) if info.pid == pid)


def sizes(info: ProcessInfo) -> dict[UnreleasedCause, int]:
    return {part.cause: part.size_bytes for part in info.unreleased}


def test_shared_memory_is_not_given_back(node: Client) -> None:
    with lab.shmem(SIZE) as victim:
        info = row(node, victim.pid)
        assert sizes(info)[UnreleasedCause.SHMEM] == info.memory.shmem_bytes >= SIZE
        assert info.sharing_pids == ()


def test_huge_pages_are_not_given_back(node: Client) -> None:
    with lab.hugetlb(2) as victim:
        assert sizes(row(node, victim.pid))[UnreleasedCause.HUGETLB] == 2 * lab.meminfo("Hugepagesize")


def test_private_memory_is_given_back(node: Client) -> None:
    with lab.live(SIZE) as victim:
        info = row(node, victim.pid)
        assert (info.unreleased, info.sharing_pids) == ((), ())


@pytest.mark.parametrize("make", [lab.clone_vm_sharer, lab.vfork_sharer], ids=["clone", "vfork"])
def test_who_shares_an_address_space_names_the_other(node: Client, make: Callable[[int], AbstractContextManager[lab.SharedVictim]]) -> None:
    with make(SIZE) as victim:
        for pid, other in ((victim.pid, victim.sharer_pid), (victim.sharer_pid, victim.pid)):
            info = row(node, pid)
            assert info.sharing_pids == (other,)
            assert info.unreleased == (Unreleased(UnreleasedCause.SHARED_MM, info.reclaimable_bytes),)


def test_a_sharer_outside_of_what_is_listed_is_named(node: Client) -> None:
    cid = secrets.token_hex(32)
    with lab.memory_cgroup() as place, cgroup_below(place, f"k8s.io/{cid}") as group, lab.clone_vm_sharer(SIZE) as victim:
        group.add(victim.pid)
        (info,) = node.list_processes(within=Container(cid))
        assert (info.pid, info.sharing_pids) == (victim.pid, (victim.sharer_pid,))
        group.add(victim.sharer_pid)
        (first,) = node.list_processes(limit=1, within=Container(cid))
        assert {first.pid, *first.sharing_pids} == {victim.pid, victim.sharer_pid}


#: Forks as often as it is told, says who its children are, and ends with them at the end of its stdin.
FORK = """
import os, signal, sys
pids = []
for _ in range(int(sys.argv[1])):
    pids.append(os.fork())
    if pids[-1] == 0:
        while True:
            signal.pause()
print(*pids, flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@contextlib.contextmanager
def forked(count: int) -> Generator[list[int], None, None]:
    """Children that are alike to the last page, each with an address space of its own."""
    command = [sys.executable, "-E", "-s", "-S", "-c", FORK, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        yield [int(pid) for pid in parent.stdout.readline().split()]


def test_processes_of_equal_size_share_nothing(node: Client) -> None:
    with forked(40) as pids, lab.clone_vm_sharer(SIZE) as victim:
        listed = {info.pid: info.sharing_pids for info in node.list_processes(limit=None)}
        assert {listed[pid] for pid in pids} == {()}
        assert listed[victim.pid] == (victim.sharer_pid,)


def test_without_kcmp_the_list_is_there_and_says_nothing_of_sharers(run_dir: Path) -> None:
    prefix = lab.filtered([], error="EPERM", syscall="kcmp")
    with running_agent(run_dir, prefix=prefix) as agent, agent.client() as node, lab.clone_vm_sharer(SIZE) as victim:
        assert row(node, victim.pid).sharing_pids == ()


def test_a_search_that_the_kernel_does_not_let_go_holds_one_thread_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """kcmp(2) waits for a process that is in execve(2): that cannot be held for long, so the search itself is replaced."""
    free = threading.Event()
    calls: list[object] = []

    def stuck(pids: object, _seconds: float) -> dict[int, list[int]]:
        calls.append(pids)
        free.wait()
        return {1: [2]}

    monkeypatch.setattr(sharer_search, "shared_among", stuck)
    monkeypatch.setattr(sharer_search, "_PATIENCE", 0.02)

    async def ask() -> None:
        threads = Reapers(2, 2)
        search = SharerSearch(threads)
        try:
            assert await asyncio.gather(*(search.among([1]) for _ in range(8))) == [{}] * 8
            assert len(calls) == 1
            free.set()
            while not (found := await search.among([1])):
                pass
            assert found == {1: [2]}
            assert await search.among([]) == {}
        finally:
            free.set()
            threads.close()

    asyncio.run(ask())
