"""What SIGKILL and process_mrelease(2) do in each state and to each kind of memory: DESIGN 2.3 and 2.9."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from support import lab

pytestmark = pytest.mark.usefixtures("process_mrelease")

SIZE = 32 * lab.MIB
Maker = Callable[[int], AbstractContextManager[lab.Victim]]


def many_vmas(size: int) -> AbstractContextManager[lab.Victim]:
    return lab.many_vmas(20_000, size=size)


def many_threads(size: int) -> AbstractContextManager[lab.Victim]:
    return lab.many_threads(50, size)


def of_another_user(size: int) -> AbstractContextManager[lab.Victim]:
    return lab.live(size, uid=lab.NOBODY)


@pytest.mark.parametrize(
    "make", [lab.stopped, lab.zombie_leader, lab.starved, lab.thp, lab.mlocked, many_vmas, many_threads, of_another_user, lab.frozen_v2]
)
def test_dying_process_of_any_kind_is_released(make: Maker) -> None:
    with make(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        before = lab.rss_anon(victim.pid)
        assert before >= victim.size_bytes
        victim.kill()
        hold.wait_held()
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= before // 100


@pytest.mark.parametrize(
    "make", [lab.live, lab.stopped, lab.zombie_leader, lab.vfork_sharer, lab.clone_vm_sharer, lab.frozen_v2, lab.starved]
)
def test_sigkill_ends_it(make: Maker) -> None:
    with make(SIZE) as victim:
        victim.kill()
        assert victim.exited()


def test_sigkill_leaves_a_v1_frozen_process_in_state_d_and_release_takes_its_memory() -> None:
    with lab.frozen_v1(SIZE) as victim:
        victim.kill()
        assert not victim.exited(0)
        assert lab.state(victim.pid) == "D"
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100
        assert not victim.exited(0)


def test_kernel_thread_accepts_sigkill_and_ignores_it() -> None:
    lab.need_root("signalling a kernel thread")
    pid = lab.kernel_thread()
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert lab.state(pid) in {"S", "I", "R"}
        assert not lab.wait_readable(pidfd, 0)
    finally:
        os.close(pidfd)


def test_zombie_takes_signals_and_a_reaped_process_does_not() -> None:
    with lab.zombie() as victim:
        signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)
    with lab.reaped() as victim, pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)


def test_release_blocks_on_a_held_mmap_lock_and_only_sigkill_wakes_it() -> None:
    with lab.mmap_locked(SIZE) as victim, lab.caller(victim.pidfd) as caller:
        victim.kill()
        caller.begin()
        lab.until(lambda: lab.state(caller.pid) == "D", "process_mrelease blocks")

        os.kill(caller.pid, signal.SIGUSR1)
        assert int(lab.status_fields(caller.pid)["ShdPnd"], 16) & (1 << (signal.SIGUSR1 - 1))
        assert lab.state(caller.pid) == "D"
        assert lab.rss_anon(victim.pid) >= SIZE

        os.kill(caller.pid, signal.SIGKILL)
        assert caller.death_signal() == signal.SIGKILL


def test_blocked_release_returns_when_the_lock_is_given_up() -> None:
    with lab.mmap_locked(SIZE) as victim, lab.caller(victim.pidfd) as caller:
        victim.kill()
        caller.begin()
        lab.until(lambda: lab.state(caller.pid) == "D", "process_mrelease blocks")
        victim.let_go()
        assert caller.answer() in {0, errno.ESRCH}
        assert victim.exited()
