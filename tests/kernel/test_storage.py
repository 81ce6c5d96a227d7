"""Victims that wait for a frozen file system, and victims whose memory is in swap: their memory comes back, and is counted."""

from __future__ import annotations

import pytest

from mrelease import Client, Outcome, Process, Proof, Wait
from support import lab

SIZE = 64 * lab.MIB

pytestmark = pytest.mark.usefixtures("process_mrelease")


@pytest.mark.parametrize("worker", [False, True], ids=["main-thread", "worker-thread"])
def test_a_writer_to_a_frozen_file_system_gives_its_memory_back_and_exits_at_the_thaw(node: Client, worker: bool) -> None:
    with lab.frozen_fs(SIZE, worker=worker) as victim:
        result = node.kill_and_release(Process(victim.pid), timeout=30)
        (killed,) = result.processes
        assert (killed.outcome, killed.proof) == (Outcome.RELEASED, Proof.RELEASE), killed
        assert killed.released_bytes >= SIZE * 0.98
        assert killed.exit_duration is None
        assert not victim.exited(0)
        assert lab.state(victim.pid, victim.tid) == "D"
        victim.thaw()
        assert victim.exited()


def test_sigkill_alone_leaves_a_writer_to_a_frozen_file_system_its_memory() -> None:
    with lab.frozen_fs(SIZE) as victim:
        victim.kill()
        assert lab.state(victim.pid) == "D"
        assert not victim.exited(0)
        assert lab.rss_anon(victim.pid) >= SIZE


def test_memory_in_swap_comes_back_and_is_counted(node: Client) -> None:
    """Standing at its exit it keeps all, so that what comes back is the agent's doing.

    SwapFree is the whole machine's: others' pages go to swap meanwhile, so that half of the victim's is asked of it.
    """
    with lab.swapped(SIZE) as victim, lab.hold_at_exit(victim):
        free = lab.meminfo("SwapFree")
        (killed,) = node.kill_and_release(Process(victim.pid), timeout=30).processes
        assert (killed.outcome, killed.proof) == (Outcome.RELEASED, Proof.RELEASE), killed
        assert killed.memory_before is not None
        assert killed.memory_before.swap_bytes >= SIZE * 0.99
        assert killed.released_bytes >= SIZE * 0.98
        assert lab.field_bytes(victim.pid, "VmSwap") <= SIZE * 0.01
        assert lab.meminfo("SwapFree") - free >= SIZE * 0.5


def test_memory_in_swap_of_one_that_exits_by_itself(node: Client) -> None:
    with lab.swapped(SIZE) as victim:
        free = lab.meminfo("SwapFree")
        (killed,) = node.kill_and_release(Process(victim.pid), timeout=30, wait=Wait.EXITED).processes
        assert killed.outcome in (Outcome.RELEASED, Outcome.EXITED)
        assert killed.released_bytes >= SIZE * 0.98
        assert lab.meminfo("SwapFree") - free >= SIZE * 0.5
