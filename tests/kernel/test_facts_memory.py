"""When memory is back and what shows it: DESIGN 2.2 and 2.6. RSS 0, ESRCH, and even the exit are no proof; the charge is."""

from __future__ import annotations

import errno
import mmap

import pytest

from support import lab

pytestmark = pytest.mark.usefixtures("process_mrelease")

SIZE = 64 * lab.MIB
MOST = SIZE * 95 // 100
"""What has to come back of SIZE: the kernel charges in batches for each CPU."""


def test_release_of_a_process_in_d_state_gives_its_memory_back_although_it_does_not_exit() -> None:
    with lab.memory_cgroup() as group, lab.d_state(SIZE, within=[group]) as victim:
        before, anon = group.usage(), lab.rss_anon(victim.pid)
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= anon // 100
        assert before - group.usage() >= MOST
        assert lab.state(victim.pid) == "D"
        assert not victim.exited(0)

        victim.let_go()
        assert victim.exited()


def test_dying_process_shows_no_resident_memory_while_all_of_it_is_still_charged() -> None:
    with lab.memory_cgroup() as group, lab.inside_exit_mm(SIZE, within=[group]) as victim:
        assert lab.statm_resident(victim.pid) == lab.rss_anon(victim.pid) == 0
        assert lab.mrelease(victim.pidfd) == errno.ESRCH
        assert not victim.exited(0)
        assert group.usage() >= SIZE

        victim.let_go()
        assert victim.exited()
        lab.until(lambda: group.usage() < SIZE // 20, "the charge falls after the exit")


def test_dying_process_past_exit_mm_has_given_its_memory_back_before_it_exits() -> None:
    with lab.memory_cgroup() as group, lab.past_exit_mm(SIZE, within=[group]) as victim:
        assert lab.statm_resident(victim.pid) == 0
        assert not victim.exited(0)
        assert group.usage() < SIZE // 20


def test_exit_is_no_proof_while_another_process_pins_the_address_space() -> None:
    with lab.memory_cgroup() as group, lab.pinned(SIZE, within=[group]) as victim:
        victim.kill()
        assert victim.exited()
        assert lab.mrelease(victim.pidfd) == errno.ESRCH
        assert group.usage() >= SIZE

        victim.pinner.kill()
        assert victim.pinner.exited()
        lab.until(lambda: group.usage() < SIZE // 20, "the charge falls once nobody pins")


def test_release_takes_the_memory_of_a_dying_process_although_another_pins_it() -> None:
    with lab.memory_cgroup() as group, lab.pinned(SIZE, within=[group]) as victim, lab.hold_at_exit(victim) as hold:
        victim.kill()
        hold.wait_held()
        before = group.usage()
        assert lab.mrelease(victim.pidfd) == 0
        assert before - group.usage() >= MOST


def test_exit_is_no_proof_while_a_sharer_lives() -> None:
    with lab.clone_vm_sharer(SIZE) as victim:
        victim.kill()
        assert victim.exited()
        assert lab.rss_anon(victim.pid) == 0
        assert lab.rss_anon(victim.sharer_pid) >= SIZE


def test_charge_stays_with_the_group_in_which_the_memory_was_taken() -> None:
    with lab.memory_cgroup() as old, lab.memory_cgroup() as new, lab.live(SIZE, within=[old]) as victim:
        new.add(victim.pid)
        assert old.usage() >= SIZE
        assert new.usage() < SIZE // 20

        with lab.hold_at_exit(victim) as hold:
            victim.kill()
            hold.wait_held()
            assert lab.mrelease(victim.pidfd) == 0
            assert old.usage() < SIZE // 20


def test_zombie_leader_shows_nothing_but_its_thread_shows_all_and_release_takes_it() -> None:
    with lab.d_state(SIZE, worker=True) as victim:
        assert (lab.state(victim.pid), lab.state(victim.pid, victim.tid)) == ("Z", "D")
        assert lab.statm_resident(victim.pid) == 0
        assert lab.statm_resident(victim.pid, victim.tid) >= SIZE
        assert not victim.exited(0)

        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100


def test_live_zombie_leader_is_killed_like_any_other() -> None:
    with lab.zombie_leader(SIZE) as victim:
        assert lab.statm_resident(victim.pid) == 0
        assert lab.rss_anon(victim.pid) >= SIZE
        victim.kill()
        assert victim.exited()


def test_shared_anonymous_memory_is_not_released() -> None:
    with lab.shmem(SIZE, anon=SIZE) as victim, lab.hold_at_exit(victim) as hold:
        victim.kill()
        hold.wait_held()
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100
        # Before Linux 6.2 each thread counts up to 64 pages for itself before the process's counter has them.
        assert lab.field_bytes(victim.pid, "RssShmem") >= SIZE - 64 * mmap.PAGESIZE


def test_hugetlb_pages_are_not_released() -> None:
    with lab.hugetlb(anon=SIZE) as victim, lab.hold_at_exit(victim) as hold:
        before = lab.field_bytes(victim.pid, "HugetlbPages")
        victim.kill()
        hold.wait_held()
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.rss_anon(victim.pid) <= SIZE // 100
        assert lab.field_bytes(victim.pid, "HugetlbPages") == before > 0


def test_page_tables_are_not_released() -> None:
    with lab.held_at_exit(SIZE) as victim:
        before = lab.field_bytes(victim.pid, "VmPTE")
        assert lab.mrelease(victim.pidfd) == 0
        assert lab.field_bytes(victim.pid, "VmPTE") == before > 0
