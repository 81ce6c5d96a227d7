"""What holds the memory of a process that was killed, found on real victims: cause, pids, wait channel, and a remedy that works."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Generator
from typing import Any
from unittest.mock import patch

import pytest

from mrelease_agent.linux import procfs
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.linux.threads import least_cpu_share
from mrelease_agent.reaping.diagnosis import Diagnosis, diagnose, words
from mrelease_agent.reaping.outcome import HeldCause
from support import lab
from support.lab.cgroups import cgroup_below
from support.lab.child import holding

SIZE = 32 * lab.MIB
#: Files of a process that pin its address space or wait for its lock.
HARMFUL = {"mem", "maps", "smaps", "smaps_rollup", "numa_maps", "pagemap", "clear_refs", "environ", "cmdline", "map_files", "io", "stack"}
NOTHING_KNOWN: dict[str, Any] = {
    "errno": 0, "exited": False, "sharers": (), "stuck": False, "no_reaper": False, "can_release": True, "held_bytes": SIZE, "seconds": 5.0,
}  # fmt: skip


def find(ref: ProcessRef, **known: Any) -> Diagnosis:
    """A diagnosis, which must have opened nothing harmful."""
    opened: list[str] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def note(path: object, *arguments: Any, **options: Any) -> object:
            opened.append(str(path))
            return call(path, *arguments, **options)

        return note

    with patch("os.open", noted(os.open)), patch("builtins.open", noted(open)):
        everything: dict[str, Any] = NOTHING_KNOWN | known
        found = diagnose(ref, **everything)
    assert HARMFUL.isdisjoint(path.rpartition("/")[2] for path in opened)
    cause, remedy = words(found)
    assert cause
    assert remedy
    assert "{" not in cause + remedy
    return found


def look(victim: lab.Victim, **known: Any) -> Diagnosis:
    with ProcessRef.open(victim.pid) as ref:
        return find(ref, **known)


def cause_of(found: Diagnosis) -> str:
    return words(found)[0]


def remedy_of(found: Diagnosis) -> str:
    return words(found)[1]


def in_shell(command: str) -> None:
    subprocess.run(["sh", "-ec", command], check=True)


def command_in(remedy: str) -> str:
    """The first command that a remedy names."""
    return remedy.split("`")[1]


@contextlib.contextmanager
def asleep(size: int) -> Generator[lab.Victim]:
    """A live process that waits for nothing that would be a cause."""
    with lab.live(size) as victim:
        lab.until(lambda: lab.state(victim.pid) == "S", "it sleeps")
        yield victim


@contextlib.contextmanager
def spinning(**options: Any) -> Generator[lab.Victim]:
    """A process that never sleeps."""
    with holding(0, **options) as (child, victim, _):
        child.ask("spin")
        yield victim


def test_d_state_names_what_the_thread_waits_for() -> None:
    with lab.d_state(SIZE) as victim:
        found = look(victim)
        assert (found.cause, found.state, found.tid) == (HeldCause.UNINTERRUPTIBLE, "D", victim.pid)
        assert found.wchan
        assert f"waiting in {found.wchan}" in cause_of(found)
        assert "FUSE" in cause_of(found)
        assert "/sys/fs/fuse/connections" in remedy_of(found)


def test_d_state_behind_a_zombie_leader_is_that_of_the_thread() -> None:
    with lab.d_state(SIZE, worker=True) as victim:
        found = look(victim)
        assert (found.cause, found.state, found.tid) == (HeldCause.UNINTERRUPTIBLE, "D", victim.tid)
        assert str(victim.tid) in cause_of(found)


def test_inside_exit_mm_waits_for_asynchronous_io() -> None:
    with lab.inside_exit_mm(SIZE) as victim:
        found = look(victim, errno=errno.ESRCH)
        assert (found.cause, found.wchan) == (HeldCause.UNINTERRUPTIBLE, "exit_aio")
        assert "asynchronous I/O" in cause_of(found)


def test_traced_names_the_process_that_holds_it() -> None:
    with lab.held_at_exit(SIZE) as victim:
        found = look(victim)
        assert (found.cause, found.state, found.tracer) == (HeldCause.TRACED, "t", os.getpid())
        assert cause_of(found).startswith(f"{os.getpid()} (")
        assert command_in(remedy_of(found)) == f"kill -9 {os.getpid()}"


def test_a_tracer_that_does_not_hold_it_is_named_beside_the_cause() -> None:
    with lab.unkillable(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        victim.kill()
        lab.until(lambda: lab.state(victim.pid) == "D", "it is in state D")
        found = look(victim)
        assert (found.cause, found.tracer) == (HeldCause.UNINTERRUPTIBLE, os.getpid())
        assert "traces it" in cause_of(found)
        victim.let_go()
        hold.wait_held()


def test_frozen_by_v1_and_the_remedy_thaws_it() -> None:
    with lab.frozen_v1(SIZE) as victim:
        victim.kill()
        found = look(victim)
        assert (found.cause, found.state, found.frozen) == (HeldCause.FROZEN, "D", True)
        in_shell(command_in(remedy_of(found)))
        assert victim.exited()


def test_frozen_where_it_sleeps_is_known_by_its_cgroup_alone() -> None:
    """Linux 6.1 and newer leave a thread that waits for a futex where it is: its wait channel does not tell."""
    with lab.cgroup("freezer") as group, holding(SIZE, within=[group], threads=1) as (child, victim, _):
        child.ask("leave_leader")
        lab.until(lambda: lab.state(victim.pid) == "Z", "the leader has left")
        group.write("freezer.state", "FROZEN")
        try:
            lab.until(lambda: group.read("freezer.state") == "FROZEN", "it is frozen")
            victim.kill()
            found = look(victim)
            assert (found.cause, found.state, found.frozen) == (HeldCause.FROZEN, "D", True)
        finally:
            group.write("freezer.state", "THAWED")


def test_frozen_by_a_cgroup_above_and_the_remedy_thaws_that_one() -> None:
    with (
        lab.cgroup("freezer") as parent,
        cgroup_below(parent, "a/b") as own,
        lab.live(SIZE, within=[own]) as victim,
    ):
        parent.write("freezer.state", "FROZEN")
        try:
            lab.until(lambda: own.read("freezer.state") == "FROZEN", "it is frozen")
            victim.kill()
            found = look(victim)
            assert found.cause is HeldCause.FROZEN
            assert command_in(remedy_of(found)) == f"echo THAWED > {parent.path}/freezer.state"
            in_shell(command_in(remedy_of(found)))
            assert victim.exited()
        finally:
            parent.write("freezer.state", "THAWED")


def test_frozen_by_v2_and_the_remedy_thaws_it() -> None:
    with lab.frozen_v2(SIZE) as victim:
        found = look(victim)
        assert (found.cause, found.frozen) == (HeldCause.FROZEN, True)
        in_shell(command_in(remedy_of(found)))
        lab.until(lambda: not look(victim).frozen, "it is thawed")


def test_starved_is_runnable_and_gets_no_cpu_time() -> None:
    cpu = max(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(spinning(cpu=cpu))
        victim = stack.enter_context(spinning(cpu=cpu, idle=True))
        # Where every session is scheduled as a group (sched_autogroup), a new one may run before the others.
        looks: list[Diagnosis] = []

        def is_starved() -> bool:
            looks.append(look(victim))
            return looks[-1].cause is HeldCause.STARVED

        lab.until(is_starved, "it is starved")
        found = looks[-1]
        assert found.state == "R"
        assert found.scheduling is not None
        assert (found.scheduling.policy, found.scheduling.cpus) == ("SCHED_IDLE", str(cpu))
        assert "SCHED_IDLE" in cause_of(found)
        assert command_in(remedy_of(found)) == f"chrt --all-tasks --other --pid 0 {victim.pid}"
        if os.geteuid() == 0:
            in_shell(command_in(remedy_of(found)))
            assert os.sched_getscheduler(found.tid) == os.SCHED_OTHER


def test_a_thread_with_a_cpu_of_its_own_is_not_starved() -> None:
    lab.need_root("a process that others do not preempt")
    with spinning(cpu=max(os.sched_getaffinity(0))) as victim, ProcessRef.open(victim.pid) as ref:
        os.sched_setscheduler(victim.pid, os.SCHED_RR, os.sched_param(1))
        lab.until(lambda: (least_cpu_share(ref.proc, [victim.pid], 0.05) or 0.0) > 0.5, "it is given most of a CPU")


def test_still_exiting_is_what_is_left() -> None:
    with asleep(SIZE) as victim:
        found = look(victim)
        assert found.cause is HeldCause.EXITING
        assert f"state {found.state}" in cause_of(found)


def test_what_ended_after_the_deadline_is_said_to_have_ended() -> None:
    with lab.zombie() as victim:
        found = look(victim)
        assert (found.cause, found.state) == (HeldCause.EXITING, "Z")
        assert "ended only just" in cause_of(found)


@pytest.mark.parametrize("kind", [lab.clone_vm_sharer, lab.vfork_sharer], ids=lambda kind: kind.__name__)
def test_shared_names_who_else_must_die(kind: Any) -> None:
    with kind(SIZE) as victim:
        found = look(victim, errno=errno.EINVAL, sharers=(victim.sharer_pid,))
        assert (found.cause, found.sharers) == (HeldCause.SHARED_MM, (victim.sharer_pid,))
        assert f"{victim.sharer_pid} (python" in cause_of(found)
        assert command_in(remedy_of(found)) == f"mrelease kill {victim.sharer_pid}"


@pytest.mark.parametrize("through_proc", [False, True], ids=["process_vm_readv", "proc-mem"])
def test_pinned_names_the_reader_and_without_it_the_memory_is_back(through_proc: bool) -> None:
    with lab.memory_cgroup() as group, lab.pinned(SIZE, within=[group], through_proc=through_proc) as victim:
        with ProcessRef.open(victim.pid) as ref:
            victim.kill()
            assert victim.exited()
            assert group.usage() >= SIZE
            found = find(ref, errno=errno.ESRCH, exited=True)
            os.waitpid(victim.pid, 0)
            assert find(ref, errno=errno.ESRCH, exited=True).readers == found.readers
        assert (found.cause, found.readers) == (HeldCause.PINNED, (victim.pinner.pid,))
        assert (f"/proc/{victim.pid}/mem" if through_proc else "process_vm_readv(2)") in cause_of(found)
        in_shell(command_in(remedy_of(found)))
        lab.until(lambda: group.usage() < SIZE // 2, "the memory is back")


def test_pinned_by_nobody_who_can_be_named_says_where_to_look() -> None:
    with lab.zombie(SIZE) as victim:
        found = look(victim, exited=True)
        assert (found.cause, found.readers) == (HeldCause.PINNED, ())
        assert "something pins" in cause_of(found)
        assert "find /proc" in remedy_of(found)


def test_an_answer_of_again_is_a_device_or_a_virtual_machine() -> None:
    with asleep(SIZE) as victim:
        found = look(victim, errno=errno.EAGAIN)
        assert found.cause is HeldCause.PINNED
        assert "mmu notifier" in cause_of(found)


def test_core_dump_that_hangs_names_what_it_is_written_to() -> None:
    with lab.core_dump_stuck(SIZE) as victim:
        victim.kill()
        lab.until(lambda: lab.state(victim.pid) == "D", "the dump waits")
        found = look(victim, errno=errno.EINVAL)
        assert (found.cause, found.state) == (HeldCause.CORE_DUMP, "D")
        assert "FUSE" in cause_of(found)
        assert "core_pattern" in remedy_of(found)


def test_core_dump_that_can_be_ended_says_by_what() -> None:
    with lab.core_dumping(SIZE) as victim:
        found = look(victim, errno=errno.EINVAL)
        assert found.cause is HeldCause.CORE_DUMP
        assert "mrelease kill" in remedy_of(found)


@pytest.mark.usefixtures("process_mrelease")
def test_mmap_lock_names_the_thread_that_holds_it() -> None:
    with lab.mmap_locked(SIZE) as victim:
        victim.kill()
        call = threading.Thread(target=process_mrelease, args=(victim.pidfd,), daemon=True)
        call.start()
        lab.until(lambda: call.native_id is not None and lab.state(os.getpid(), call.native_id) == "D", "process_mrelease blocks")
        found = look(victim, errno=errno.ETIMEDOUT, stuck=True)
        victim.let_go()
        call.join()
        assert (found.cause, found.state, found.tid) == (HeldCause.MMAP_LOCK, "D", victim.tid)
        assert f"its thread {victim.tid} (state D, waiting in {found.wchan}" in cause_of(found)


def test_a_call_that_works_and_does_not_wait_is_not_the_lock() -> None:
    with asleep(SIZE) as victim:
        assert look(victim, errno=errno.ETIMEDOUT, stuck=True).cause is HeldCause.EXITING


@pytest.mark.parametrize(("known", "cause"), [({"no_reaper": True}, HeldCause.NO_REAPER), ({"can_release": False}, HeldCause.UNSUPPORTED)])
def test_what_the_agent_could_not_do_is_the_cause_and_the_state_is_told_too(known: dict[str, bool], cause: HeldCause) -> None:
    with lab.d_state(SIZE) as victim:
        found = look(victim, **known)
        assert found.cause is cause
        assert found.wchan in cause_of(found)


class Countdown:
    """A clock that jumps to the end after so many looks at it; what happens after that is late."""

    def __init__(self, looks: int) -> None:
        self._looks = looks
        self.late = False

    def __call__(self) -> float:
        self._looks -= 1
        self.late = self._looks < 0
        return 1000.0 if self.late else 0.0


def test_thousands_of_open_files_do_not_take_it_past_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, read_link = Countdown(10), os.readlink
    early, late = list[str](), list[str]()

    def noted(path: str, *, dir_fd: int | None = None) -> str:
        (late if clock.late else early).append(path)
        return read_link(path, dir_fd=dir_fd)

    with lab.zombie() as victim, contextlib.ExitStack() as stack:
        for _ in range(2000):
            stack.callback(os.close, os.dup(0))
        monkeypatch.setattr(procfs, "pids", lambda: [os.getpid()])
        monkeypatch.setattr(os, "readlink", noted)
        found = look(victim, exited=True, clock=clock, seconds=1.0)
    assert len(early) > 64
    assert late == []
    assert (found.cause, found.complete) == (HeldCause.PINNED, False)


def test_thousands_of_threads_do_not_take_it_past_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    read, read_file = list[str](), procfs.read

    def noted(proc: int, name: str) -> bytes:
        read.append(name)
        return read_file(proc, name)

    with lab.many_threads(1000, SIZE) as victim:
        monkeypatch.setattr(procfs, "read", noted)
        found = look(victim, clock=Countdown(10), seconds=1.0)
    assert found.cause is HeldCause.EXITING
    assert 2 <= len(read) <= 20


def test_without_time_there_is_a_partial_answer() -> None:
    with lab.d_state(SIZE) as victim:
        assert look(victim, seconds=0.0).cause is HeldCause.UNINTERRUPTIBLE
    with lab.zombie() as victim:
        found = look(victim, seconds=0.0, exited=True)
        assert (found.cause, found.complete) == (HeldCause.PINNED, False)


def test_nothing_held_is_nothing_to_explain() -> None:
    with lab.zombie() as victim, ProcessRef.open(victim.pid) as ref:
        known: dict[str, Any] = NOTHING_KNOWN | {"exited": True, "held_bytes": 0}
        found = diagnose(ref, **known)
        assert (found.cause, words(found)) == (HeldCause.UNSPECIFIED, ("", ""))


def test_reaped_is_not_mistaken_for_who_has_its_number_now() -> None:
    with lab.live(0) as victim:
        with ProcessRef.open(victim.pid) as ref:
            signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)
            assert victim.exited()
            os.waitpid(victim.pid, 0)
            found = find(ref)
        assert (found.cause, found.state, found.tid) == (HeldCause.EXITING, "", 0)
