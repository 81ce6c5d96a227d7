"""Who is a member of a target when its processes are opened: a pid in a list is only a number, and the list is old once it is read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator

import pytest

from mrelease.v1 import target_pb2
from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.set_operation import Member
from mrelease_agent.rpc.group_target import GroupMembers
from mrelease_agent.targets.group import Group
from support import lab

SIZE = lab.MIB


@pytest.fixture
def group() -> Generator[lab.Cgroup, None, None]:
    with lab.memory_cgroup() as made:
        yield made


@contextlib.contextmanager
def members(group: lab.Cgroup) -> Generator[tuple[GroupMembers, Group], None, None]:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    with Group(tree, tree.top.rstrip("/") + "/" + str(group.path.relative_to(tree.mount.path))) as opened:
        target = target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=opened.path))
        yield GroupMembers([opened], target, Protection()), opened


@contextlib.contextmanager
def fresh(found: GroupMembers) -> Generator[list[int], None, None]:
    with contextlib.ExitStack() as stack:
        new: list[Member] = asyncio.run(found.fresh())
        for member in new:
            stack.enter_context(member.ref)
        yield [member.ref.pid for member in new]


@pytest.fixture
def when_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Have something done right before each process is opened, that is after it was listed."""
    original = ProcessRef.open

    def set_up(do: Callable[[int], None]) -> None:
        def opening(pid: int, *, checked: bool = True) -> ProcessRef:
            do(pid)
            return original(pid, checked=checked)

        monkeypatch.setattr(ProcessRef, "open", opening)

    return set_up


def test_who_leaves_between_the_list_and_its_opening_is_no_member(
    group: lab.Cgroup, when_opened: Callable[[Callable[[int], None]], None]
) -> None:
    with lab.memory_cgroup() as elsewhere, lab.live(SIZE, within=[group]) as leaves, lab.live(SIZE, within=[group]) as stays:
        when_opened(lambda pid: elsewhere.add(pid) if pid == leaves.pid else None)
        with members(group) as (found, _), fresh(found) as pids:
            assert pids == [stays.pid]
            with fresh(found) as again:
                assert not again
            group.add(leaves.pid)  # it comes back: it was only left out because it was elsewhere
            when_opened(lambda _pid: None)
            with fresh(found) as again:
                assert again == [leaves.pid]


def test_who_has_the_pid_of_one_that_was_listed_is_no_member(group: lab.Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list names a pid whose process has ended since; the one that has it now was never in the group."""
    with lab.live(SIZE, within=[group]) as member, lab.live(SIZE) as stranger, members(group) as (found, opened):

        def outdated(_group: Group) -> list[int]:
            return [member.pid, stranger.pid]

        monkeypatch.setattr(Group, "members", outdated)
        with fresh(found) as pids:
            assert pids == [member.pid]
        assert opened.places().keys() == {member.pid}


def test_who_ends_while_it_is_opened_is_no_member_and_leaves_no_descriptor(
    group: lab.Cgroup, when_opened: Callable[[Callable[[int], None]], None]
) -> None:
    with lab.live(SIZE, within=[group]) as ends, lab.live(SIZE, within=[group]) as stays, members(group) as (found, _):

        def end(pid: int) -> None:
            if pid == ends.pid:
                ends.kill()
                assert ends.exited()

        when_opened(end)
        before = len(os.listdir("/proc/self/fd"))
        with fresh(found) as pids:
            assert pids == [stays.pid]
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_of_which_only_a_thread_is_in_the_group_is_no_member(group: lab.Cgroup) -> None:
    if group.version == 2:
        pytest.skip("v2 keeps the threads of a process together, but in threaded cgroups")
    script = (
        "import signal, sys, threading\n"
        "def enter():\n    open(sys.argv[1], 'w').write(str(threading.get_native_id()))\n    print(flush=True)\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=enter).start()\nsignal.pause()"
    )
    with (
        lab.live(SIZE, within=[group]) as member,
        members(group) as (found, _),
        subprocess.Popen([sys.executable, "-S", "-E", "-c", script, str(group.path / "tasks")], stdout=subprocess.PIPE) as split,
    ):
        try:
            assert split.stdout is not None
            split.stdout.readline()
            assert str(split.pid) in group.read("cgroup.procs").split()
            with fresh(found) as pids:
                assert pids == [member.pid]
        finally:
            split.kill()


def test_who_was_returned_is_not_returned_again_while_it_lives(group: lab.Cgroup) -> None:
    with lab.live(SIZE, within=[group]) as member, members(group) as (found, _), fresh(found) as pids:
        assert pids == [member.pid]
        with lab.live(SIZE, within=[group]) as later, fresh(found) as again:
            assert again == [later.pid]
        with fresh(found) as again:
            assert not again
