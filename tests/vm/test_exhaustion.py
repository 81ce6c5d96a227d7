"""Memory exhausted for real, with a stuck process holding most of it: the agent answers, gives it back, and others can have it."""

from __future__ import annotations

import pytest

from mrelease import Client, Outcome, Process, Verdict
from support import lab
from support.agent import Agent
from support.lab import MIB, exhaust

pytestmark = pytest.mark.usefixtures("process_mrelease")


def available() -> int:
    return lab.meminfo("MemAvailable")


def test_what_a_stuck_process_held_is_there_for_the_next(node: Client, agent: Agent) -> None:
    size = available() // 2
    with lab.unkillable(size) as victim:
        with exhaust.exhausted(48 * MIB):
            before, kills = available(), exhaust.oom_kills()
            assert before < size // 2
            result = node.kill_and_release(Process(victim.pid))
            assert result.verdict is Verdict.RELEASED, result
            assert result.released_bytes >= size * 0.98
            lab.until(lambda: available() - before >= size * 0.95, "what was released is available")
            with lab.live(int(size * 0.95)):
                assert exhaust.oom_kills() == kills
        assert not victim.exited(0)
    assert agent.process.poll() is None


def test_the_agent_answers_while_the_oom_killer_is_at_work(node: Client, agent: Agent) -> None:
    size = available() // 4
    with lab.unkillable(size) as victim:
        kills = exhaust.oom_kills()
        with exhaust.oom() as killer:
            killer.wait_killed()
            assert node.get_node().memory is not None
            with agent.client() as another:
                assert another.get_node().identity.name
            assert lab.field_bytes(agent.pid, "VmLck")
            (killed,) = node.kill_and_release(Process(victim.pid)).processes
            assert killed.outcome is Outcome.RELEASED, killed
            assert killed.released_bytes >= size * 0.98
            killer.wait_killed()
        assert exhaust.oom_kills() >= kills + 2
        assert not victim.exited(0)
    assert agent.process.poll() is None
    assert node.get_node().identity.name


def test_an_allocation_that_waits_goes_on(node: Client) -> None:
    size = 64 * MIB
    with lab.memory_cgroup() as group, lab.unkillable(size, within=[group]) as victim:
        group.write("memory.high", str(size + 16 * MIB))
        with exhaust.allocating(size, within=[group]) as waiter:
            # Above the limit each few pages cost it up to two seconds.
            lab.until(lambda: _times_over(group) > 3, "the kernel makes it wait")
            assert lab.rss_anon(waiter.pid) < size
            (killed,) = node.kill_and_release(Process(victim.pid)).processes
            assert killed.outcome is Outcome.RELEASED, killed
            waiter.hear("it has what it asked for")
            assert lab.rss_anon(waiter.pid) >= size


def _times_over(group: lab.Cgroup) -> int:
    return next(int(line.split()[1]) for line in group.read("memory.events").splitlines() if line.startswith("high "))
