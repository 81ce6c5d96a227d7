"""A kernel without process_mrelease(2), such as 5.10, or a filter that hides it: victims die, and RELEASED is never said."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

import pytest

from mrelease import Client, Feature, Outcome, Process, Proof, Verdict, Wait, errors
from support import lab
from support.agent import running_agent

SIZE = 32 * lab.MIB
SHORT = 0.5
Maker = Callable[[int], AbstractContextManager[lab.Victim]]


def has_mrelease() -> bool:
    try:
        lab.need_mrelease()
    except lab.Unavailable:
        return False
    return True


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client, None, None]:
    """A client of an agent that does not have the call."""
    prefix = lab.filtered([], error="ENOSYS") if has_mrelease() else []
    with running_agent(tmp_path_factory.mktemp("agent") / "run", prefix=prefix) as agent, agent.client() as client:
        yield client


def test_the_node_says_so(node: Client) -> None:
    described = node.get_node()
    (capability,) = (found for found in described.capabilities if found.feature is Feature.PROCESS_MRELEASE)
    assert not capability.available
    assert described.kernel_release in capability.reason
    assert "5.15" in capability.remedy


@pytest.mark.parametrize("make", [lab.live, lab.stopped, lab.zombie_leader, lab.thp, lab.mlocked], ids=lambda make: make.__name__)
def test_who_can_die_exits_and_that_is_the_proof(node: Client, make: Maker) -> None:
    with make(SIZE) as victim:
        (killed,) = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED, timeout=30).processes
        assert (killed.outcome, killed.proof) == (Outcome.EXITED, Proof.EXIT), killed
        assert killed.released_bytes >= SIZE * 0.98
        assert killed.release_attempts == 0
        assert victim.exited(0)


@pytest.mark.parametrize("make", [lab.unkillable, lab.frozen_fs, lab.held_at_exit, lab.mmap_locked], ids=lambda make: make.__name__)
def test_who_cannot_die_keeps_its_memory_and_nothing_is_claimed(node: Client, make: Maker) -> None:
    with make(SIZE) as victim:
        result = node.kill_and_release(Process(victim.pid), timeout=SHORT)
        (killed,) = result.processes
        assert (killed.outcome, killed.proof, killed.released_bytes) == (Outcome.UNSUPPORTED, Proof.UNSPECIFIED, 0), killed
        assert result.verdict is not Verdict.RELEASED
        assert killed.remedy
        assert lab.rss_anon(victim.pid) >= SIZE


def test_inside_exit_mm_rss_0_is_not_believed(node: Client) -> None:
    with lab.inside_exit_mm(SIZE) as victim:
        assert lab.statm_resident(victim.pid) == 0
        (found,) = node.release(Process(victim.pid), timeout=SHORT).processes
        assert (found.outcome, found.proof, found.released_bytes) == (Outcome.UNSUPPORTED, Proof.UNSPECIFIED, 0), found


def test_release_of_the_living_is_refused(node: Client) -> None:
    with lab.live(SIZE) as victim:
        with pytest.raises(errors.NotDying):
            node.release(Process(victim.pid))
        assert not victim.exited(0)
