"""Which errno process_mrelease(2) answers for which victim: DESIGN 2.1. Each is what the product's outcomes are mapped from."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from support import lab

pytestmark = pytest.mark.usefixtures("process_mrelease")

SIZE = 32 * lab.MIB
Sharer = Callable[[int], AbstractContextManager[lab.SharedVictim]]


def test_flags_are_checked_before_the_descriptor() -> None:
    with lab.live(0) as victim:
        assert lab.mrelease(victim.pidfd, 1) == errno.EINVAL
    assert lab.mrelease(-1, 1) == errno.EINVAL


def test_probe_without_a_descriptor_is_ebadf() -> None:
    assert lab.mrelease(-1) == errno.EBADF


def test_descriptor_of_a_file_is_ebadf() -> None:
    with Path(os.devnull).open() as file:
        assert lab.mrelease(file.fileno()) == errno.EBADF


@pytest.mark.parametrize("make", [lab.live, lab.stopped, lab.zombie_leader, lab.frozen_v1, lab.frozen_v2, lab.starved, lab.unkillable])
def test_process_that_nobody_killed_is_einval_and_keeps_everything(make: Callable[[int], AbstractContextManager[lab.Victim]]) -> None:
    with make(SIZE) as victim:
        assert lab.mrelease(victim.pidfd) == errno.EINVAL
        assert lab.rss_anon(victim.pid) >= SIZE
        assert not victim.exited(0)


def test_zombie_is_esrch() -> None:
    with lab.zombie() as victim:
        assert lab.state(victim.pid) == "Z"
        assert lab.mrelease(victim.pidfd) == errno.ESRCH


def test_reaped_process_is_esrch() -> None:
    with lab.reaped() as victim:
        assert lab.mrelease(victim.pidfd) == errno.ESRCH


def test_kernel_thread_is_esrch() -> None:
    pidfd = os.pidfd_open(lab.kernel_thread())
    try:
        assert lab.mrelease(pidfd) == errno.ESRCH
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("make", [lab.past_exit_mm, lab.inside_exit_mm])
def test_process_past_exit_mm_is_esrch_although_it_has_not_exited(make: Callable[[int], AbstractContextManager[lab.Victim]]) -> None:
    with make(SIZE) as victim:
        assert lab.mrelease(victim.pidfd) == errno.ESRCH
        assert not victim.exited(0)


def test_dying_process_is_0_and_0_again() -> None:
    with lab.held_at_exit(SIZE) as victim:
        assert lab.rss_anon(victim.pid) >= SIZE
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100
        assert lab.mrelease(victim.pidfd) == 0


@pytest.mark.parametrize("make", [lab.clone_vm_sharer, lab.vfork_sharer])
def test_dying_process_that_shares_with_a_living_one_is_einval_and_0_once_both_die(make: Sharer) -> None:
    with make(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        victim.kill()
        hold.wait_held()
        assert lab.mrelease(victim.pidfd) == errno.EINVAL
        assert lab.rss_anon(victim.pid) >= SIZE

        os.kill(victim.sharer_pid, signal.SIGKILL)
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100


def test_child_in_vfork_is_einval_although_it_dies_because_its_parent_lives() -> None:
    with lab.vfork_sharer(SIZE) as victim:
        sharer = os.pidfd_open(victim.sharer_pid)
        os.kill(victim.sharer_pid, signal.SIGSTOP)
        assert lab.mrelease(sharer) == errno.EINVAL
        os.close(sharer)


def test_core_dump_is_einval_and_keeps_the_memory() -> None:
    with lab.core_dumping(SIZE) as victim:
        assert lab.mrelease(victim.pidfd) == errno.EINVAL
        assert lab.rss_anon(victim.pid) >= SIZE
        assert lab.status_fields(victim.pid)["CoreDumping"] == "1"


def test_core_dump_into_a_pipe_is_ended_by_sigkill() -> None:
    with lab.core_dumping(SIZE) as victim:
        victim.kill()
        assert victim.exited()


def test_core_dump_into_a_hanging_file_system_outlives_sigkill_and_stays_einval() -> None:
    with lab.core_dump_stuck(SIZE) as victim:
        victim.kill()
        lab.until(lambda: lab.state(victim.pid) == "D", "the dump waits in state D")
        assert lab.mrelease(victim.pidfd) == errno.EINVAL
        assert lab.rss_anon(victim.pid) >= SIZE

        victim.let_go()
        assert victim.exited()


def test_any_user_may_release_any_dying_process() -> None:
    lab.need_root("calling as another user")
    with lab.held_at_exit(SIZE) as victim, lab.caller(victim.pidfd, uid=lab.NOBODY) as caller:
        assert caller.call() == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100


@pytest.mark.parametrize("name", ["ENOSYS", "EPERM", "EAGAIN", "EINTR"])
def test_seccomp_filter_answers_with_its_errno(name: str) -> None:
    with lab.held_at_exit(SIZE) as victim, lab.caller(victim.pidfd, error=name) as caller:
        assert caller.call() == getattr(errno, name)
        assert caller.call(probe=True) == getattr(errno, name)
        assert lab.rss_anon(victim.pid) >= SIZE


def test_seccomp_filter_that_spares_the_probe() -> None:
    with lab.held_at_exit(SIZE) as victim, lab.caller(victim.pidfd, error="EPERM", spare_probe=True) as caller:
        assert (caller.call(probe=True), caller.call()) == (errno.EBADF, errno.EPERM)


def test_seccomp_filter_for_the_first_calls_only() -> None:
    with lab.held_at_exit(SIZE) as victim, lab.caller(victim.pidfd, error="EAGAIN", times=2) as caller:
        assert [caller.call() for _ in range(3)] == [errno.EAGAIN, errno.EAGAIN, 0]
        assert lab.rss_anon(victim.pid) <= SIZE // 100


@pytest.mark.parametrize("how", ["trap", "kill"])
def test_seccomp_filter_may_answer_with_sigsys(how: str) -> None:
    with lab.held_at_exit(0) as victim, lab.caller(victim.pidfd, **{how: True}) as caller:
        caller.begin(probe=True)
        assert caller.death_signal() == signal.SIGSYS
