"""Every state that a process can be in when it is to die: the agent's verdict on each, on the real kernel (DESIGN §2)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mrelease import Client, HeldCause, Outcome, Process, ProcessResult, Proof, UnreleasedCause, Verdict, Wait, errors
from support import lab
from support.agent import Agent
from support.lab import MIB

SIZE = 64 * MIB
#: Long enough for a busy machine, short enough for a test that waits it out.
SHORT = 0.5

pytestmark = pytest.mark.usefixtures("process_mrelease")


def kill(node: Client, victim: lab.Victim, *, timeout: float = 30.0, wait: Wait = Wait.RELEASED) -> ProcessResult:
    result = node.kill_and_release(Process(victim.pid), timeout=timeout, wait=wait)
    (process,) = result.processes
    assert process.process.pid == victim.pid
    assert result.released_bytes == process.released_bytes
    return process


def is_back(process: ProcessResult, size: int) -> bool:
    """The memory is proven back: at least ``size`` bytes less 1 %."""
    return (
        process.outcome in (Outcome.RELEASED, Outcome.EXITED)
        and process.proof is not Proof.UNSPECIFIED
        and process.released_bytes >= size * 0.98
        and process.release_duration is not None
    )


def test_live(node: Client) -> None:
    with lab.live(SIZE) as victim:
        assert is_back(kill(node, victim), SIZE)


def test_wait_exited_waits_for_the_exit(node: Client) -> None:
    with lab.live(SIZE) as victim:
        killed = kill(node, victim, wait=Wait.EXITED)
        assert is_back(killed, SIZE)
        assert killed.exit_duration is not None
        assert victim.exited(0)


def test_stopped(node: Client) -> None:
    with lab.stopped(SIZE) as victim:
        assert is_back(kill(node, victim), SIZE)


def test_zombie_has_nothing_to_give(node: Client) -> None:
    with lab.zombie() as victim:
        killed = kill(node, victim)
        assert killed.outcome is Outcome.EXITED
        assert killed.released_bytes == 0
        assert killed.memory_before is None


def test_zombie_leader_with_a_live_thread(node: Client) -> None:
    with lab.zombie_leader(SIZE) as victim:
        killed = kill(node, victim)
        assert is_back(killed, SIZE)
        assert killed.memory_before is not None


def test_kernel_thread_is_refused(node: Client) -> None:
    with pytest.raises(errors.KernelThread):
        node.kill_and_release(Process(lab.kernel_thread()))


def test_reaped_is_not_found(node: Client) -> None:
    with lab.reaped() as victim, pytest.raises(errors.ProcessNotFound):
        node.kill_and_release(Process(victim.pid))


def test_clone_vm_sharer_keeps_the_memory(node: Client) -> None:
    with lab.clone_vm_sharer(SIZE) as victim:
        killed = kill(node, victim, timeout=SHORT)
        assert killed.outcome is Outcome.SHARED_MM
        assert killed.sharing_pids == (victim.sharer_pid,)
        assert killed.released_bytes == 0
        assert killed.proof is Proof.UNSPECIFIED
        assert UnreleasedCause.SHARED_MM in {part.cause for part in killed.unreleased}
        assert str(victim.sharer_pid) in killed.cause


def test_vfork_sharer_keeps_the_memory(node: Client) -> None:
    with lab.vfork_sharer(SIZE) as victim:
        killed = kill(node, victim, timeout=SHORT)
        assert killed.outcome is Outcome.SHARED_MM
        assert victim.sharer_pid in killed.sharing_pids


def test_held_at_exit_by_a_tracer(node: Client) -> None:
    with lab.held_at_exit(SIZE) as victim:
        killed = kill(node, victim)
        assert killed.outcome is Outcome.RELEASED
        assert killed.proof is Proof.RELEASE
        assert killed.exit_duration is None
        assert is_back(killed, SIZE)


def test_d_state_main_thread(node: Client) -> None:
    with lab.unkillable(SIZE) as victim:
        killed = kill(node, victim)
        assert killed.outcome is Outcome.RELEASED
        assert is_back(killed, SIZE)
        assert killed.state == "D"


def test_d_state_worker_thread_behind_a_zombie_leader(node: Client) -> None:
    with lab.unkillable(SIZE, worker=True) as victim:
        killed = kill(node, victim)
        assert killed.outcome is Outcome.RELEASED
        assert is_back(killed, SIZE)


def test_release_of_what_someone_else_killed_in_d_state(node: Client) -> None:
    with lab.d_state(SIZE, worker=True) as victim:
        result = node.release(Process(victim.pid))
        assert result.verdict is Verdict.RELEASED
        assert result.released_bytes >= SIZE * 0.98


def test_release_of_the_living_signals_nothing(node: Client) -> None:
    with lab.live(SIZE) as victim:
        with pytest.raises(errors.NotDying) as caught:
            node.release(Process(victim.pid))
        assert "KillAndRelease" in str(caught.value)
        assert not victim.exited(0)
        assert lab.rss_anon(victim.pid) >= SIZE


def test_release_of_a_sharer_of_the_living_signals_nothing(node: Client) -> None:
    with lab.clone_vm_sharer(SIZE) as victim:
        with pytest.raises(errors.NotDying):
            node.release(Process(victim.pid))
        assert not victim.exited(0)


def test_release_of_a_core_dump_says_so(node: Client) -> None:
    with lab.core_dumping(SIZE) as victim:
        result = node.release(Process(victim.pid), timeout=SHORT)
        (process,) = result.processes
        assert process.outcome is Outcome.CORE_DUMPING
        assert process.errno_name == "EINVAL"
        assert result.verdict is Verdict.HELD


def test_kill_ends_a_core_dump(node: Client) -> None:
    with lab.core_dumping(SIZE) as victim:
        assert is_back(kill(node, victim), SIZE)


def test_a_core_dump_that_sigkill_does_not_end(node: Client) -> None:
    with lab.core_dump_stuck(SIZE) as victim:
        killed = kill(node, victim, timeout=SHORT)
        assert killed.outcome is Outcome.CORE_DUMPING
        assert killed.proof is Proof.UNSPECIFIED
        assert killed.remedy


def test_inside_exit_mm_reads_rss_0_and_is_held(node: Client) -> None:
    """RSS 0 and ESRCH, and the memory is still there: whoever believes them claims what is not so."""
    with lab.inside_exit_mm(SIZE) as victim:
        assert lab.statm_resident(victim.pid) == 0
        result = node.release(Process(victim.pid), timeout=SHORT)
        (process,) = result.processes
        assert process.outcome is Outcome.HELD
        assert process.errno_name == "ESRCH"
        assert process.memory_after is None
        assert process.released_bytes == 0
        assert result.verdict is Verdict.HELD


def test_past_exit_mm_nothing_is_claimed(node: Client) -> None:
    """Not exited, nothing to read: what it held is not known any more, so nothing is claimed as released."""
    with lab.past_exit_mm(SIZE) as victim:
        result = node.release(Process(victim.pid), timeout=SHORT)
        assert result.verdict is Verdict.HELD
        assert result.released_bytes == 0


def test_mmap_lock_held_is_held_and_the_agent_lives(node: Client) -> None:
    with lab.mmap_locked(SIZE) as victim:
        killed = kill(node, victim, timeout=SHORT)
        assert killed.outcome is Outcome.HELD
        assert killed.state == "D"
        assert node.get_node().identity.name
        victim.let_go()


def test_pinned_by_a_reader_is_not_proven_by_the_exit(node: Client) -> None:
    """The process is gone, its memory is not: somebody else reads it. Its cgroup still has the charge."""
    with lab.memory_cgroup() as group, lab.pinned(SIZE, within=[group]) as victim:
        # Time enough to exit by itself: reaped before that, the memory would come back in spite of the reader.
        result = node.kill_and_release(Process(victim.pid), reap_delay=1.0, timeout=1.5)
        (process,) = result.processes
        assert victim.exited(0)
        assert process.outcome is Outcome.HELD
        assert process.released_bytes == 0
        assert process.held_cause is HeldCause.PINNED
        assert process.reader_pids


def test_little_that_is_pinned_is_seen_beside_much_page_cache(node: Client, tmp_path: Path) -> None:
    """The charge of the cgroup is mostly of files: that part of it says nothing of the process."""
    with lab.memory_cgroup() as group:
        write = f"echo $$ > {group.path}/cgroup.procs && head --bytes 32M /dev/zero > {tmp_path}/file"
        subprocess.run(["/bin/sh", "-c", write], check=True)
        with lab.pinned(4 * lab.MIB, within=[group]) as victim:
            result = node.kill_and_release(Process(victim.pid), reap_delay=1.0, timeout=1.5)
            (process,) = result.processes
            assert victim.exited(0)
            assert (process.outcome, process.held_cause) == (Outcome.HELD, HeldCause.PINNED)
            assert process.released_bytes == 0


INHERITED = """
import mmap, os, sys
kept, given = (mmap.mmap(-1, int(size) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for size in sys.argv[3:])
open(sys.argv[1], "w").write("0")
for area in (kept, given):
    area.madvise(mmap.MADV_NOHUGEPAGE)
    area[:] = bytes([1]) * len(area)
if os.fork() == 0:
    open(sys.argv[2], "w").write("0")
    given.close()
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def parent_of_a_heir() -> Generator[lab.Victim]:
    """A process with 64 MiB of its own, alone in its cgroup; a child in another cgroup has inherited 16 of them."""
    with contextlib.ExitStack() as stack:
        procs = [str(stack.enter_context(lab.memory_cgroup()).path / "cgroup.procs") for _ in range(2)]
        command = [sys.executable, "-c", INHERITED, *procs, "16", "48"]
        parent = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert parent.stdout
        pidfds = [os.pidfd_open(pid) for pid in (parent.pid, int(parent.stdout.readline()))]
        try:
            yield lab.Victim(parent.pid, 64 * MIB, pidfds[0])
        finally:
            for pidfd in pidfds:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                lab.wait_readable(pidfd)
                os.close(pidfd)


def test_what_a_child_elsewhere_has_inherited_stays_after_the_exit(node: Client) -> None:
    with parent_of_a_heir() as victim:
        result = node.kill_and_release(Process(victim.pid), timeout=3.0, reap_delay=1.0)
    (process,) = result.processes
    assert (process.outcome, process.held_cause) == (Outcome.PARTIAL, HeldCause.PINNED)
    assert "fork" in process.remedy
    assert 46 * MIB <= process.released_bytes <= 54 * MIB


def test_what_a_child_elsewhere_has_inherited_is_not_counted_as_released(node: Client) -> None:
    with parent_of_a_heir() as victim, lab.hold_at_exit(victim):
        process = kill(node, victim)
    assert (process.outcome, process.proof) == (Outcome.RELEASED, Proof.RELEASE)
    assert 46 * MIB <= process.released_bytes <= 60 * MIB
    assert any(part.cause is UnreleasedCause.COPY_ON_WRITE and part.size_bytes >= 15 * MIB for part in process.unreleased)


def test_reaping_takes_the_memory_in_spite_of_a_reader(node: Client) -> None:
    with lab.pinned(SIZE) as victim, lab.hold_at_exit(victim):
        assert is_back(kill(node, victim), SIZE)


def test_memory_cgroup_of_its_own_shows_the_fall(node: Client) -> None:
    with lab.memory_cgroup() as group, lab.live(SIZE, within=[group]) as victim:
        killed = kill(node, victim, wait=Wait.EXITED)
        assert is_back(killed, SIZE)
        charge = killed.cgroup
        assert charge is not None
        assert charge.before_bytes - charge.after_bytes >= SIZE * 0.98


@pytest.mark.parametrize(
    "kind",
    [lambda: lab.thp(SIZE), lambda: lab.mlocked(SIZE), lambda: lab.many_vmas(20_000, size=SIZE), lambda: lab.many_threads(200, SIZE)],
    ids=["thp", "mlocked", "20000-vmas", "200-threads"],
)
def test_memory_of_every_kind_comes_back(node: Client, kind: Callable[[], AbstractContextManager[lab.Victim]]) -> None:
    with kind() as victim:
        assert is_back(kill(node, victim), victim.size_bytes)


def test_shared_memory_is_reported_apart(node: Client) -> None:
    with lab.shmem() as victim:
        killed = kill(node, victim, wait=Wait.EXITED)
        shmem = [part for part in killed.unreleased if part.cause is UnreleasedCause.SHMEM]
        assert shmem
        assert shmem[0].size_bytes > 0
        assert killed.memory_before is not None
        assert killed.released_bytes <= killed.memory_before.reclaimable_bytes


@pytest.mark.parametrize("freezer", [lab.frozen_v1, lab.frozen_v2], ids=lambda kind: kind.__name__)
def test_frozen(node: Client, freezer: Callable[[int], AbstractContextManager[lab.Victim]]) -> None:
    with freezer(SIZE) as victim:
        assert is_back(kill(node, victim), SIZE)


def test_starved(node: Client) -> None:
    with lab.starved(SIZE) as victim:
        assert is_back(kill(node, victim, timeout=60), SIZE)


def test_validate_only_signals_nothing(node: Client) -> None:
    with lab.live(SIZE) as victim:
        result = node.kill_and_release(Process(victim.pid), validate_only=True)
        assert result.processes[0].outcome is Outcome.VALIDATED
        assert result.verdict is Verdict.VALIDATED
        assert not victim.exited(0)


def test_no_process_of_the_agents_own_family_is_killed(node: Client, agent: Agent) -> None:
    for pid, rule in ((1, "init"), (agent.pid, "agent"), (os.getpid(), "ancestor-of-agent")):
        with pytest.raises(errors.Protected) as caught:
            node.kill_and_release(Process(pid))
        assert caught.value.metadata["rule"] == rule
