"""What integrations do with a process that someone else has killed; real processes, a real agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrelease import Client
from mrelease.integrations._dying import Watched, release, wait_killed
from mrelease.integrations._helper import Helper, Order, Report
from mrelease.integrations._identity import identify
from mrelease.integrations._located import located, on_node
from support import lab
from support.agent import Agent

SIZE = 16 * lab.MIB


def test_what_tells_a_process_from_every_other(node: Client) -> None:
    with lab.live() as victim:
        facts = identify(victim.pid)
        found = located(facts)
        assert found.process.pid == victim.pid
        assert found.process.start_time_ticks == lab.start_time(victim.pid)
        assert found.boot_id == node.get_node().identity.boot_id
        # The agent takes it for the same process, whichever of them it can compare.
        assert node.kill_and_release(on_node(node, found), validate_only=True).processes[0].pid == victim.pid


def test_the_number_of_a_container_is_looked_up_by_the_inode(node: Client) -> None:
    with lab.live(SIZE) as victim:
        facts = identify(victim.pid)
        if not facts["pidfd_inode"]:
            pytest.skip("pidfds have no inodes of their own before Linux 6.9")
        # As of a container that numbers it 7 and hides its own id.
        inside = located({**facts, "pid": 7, "is_nested": True, "container_id": ""})
        assert inside.is_nested
        assert on_node(node, inside).pid == victim.pid
    with pytest.raises(LookupError):
        on_node(node, inside)
    with pytest.raises(LookupError, match=r"6\.9"):
        on_node(node, located({**facts, "is_nested": True, "container_id": "", "pidfd_inode": 0}))


def test_the_number_of_a_container_whose_id_is_known_counts_there() -> None:
    with lab.live() as victim:
        facts: dict[str, Any] = {**identify(victim.pid), "is_nested": True, "container_id": "ab" * 32}
        assert located(facts).process.container_id == "ab" * 32
        assert not located(facts).is_nested
        # On the node itself the number is the node's, whatever the cgroup is called.
        assert located({**facts, "is_nested": False}).process.container_id == ""


@pytest.mark.parametrize(
    ("field", "value"),
    [("pid", 0), ("pid", "7"), ("pid", True), ("pid", 1 << 23), ("start_time_ticks", 0), ("start_time_ticks", None), ("pidfd_inode", -1),
     ("boot_id", 7), ("boot_id", "x" * 37), ("hostname", "a\nb"), ("hostname", None)],
)  # fmt: skip
def test_facts_that_nobody_can_have_found_are_refused(field: str, value: object) -> None:
    with lab.live() as victim:
        facts = {**identify(victim.pid), field: value}
    with pytest.raises(ValueError, match=field):
        located(facts)
    with pytest.raises(ValueError, match="facts"):
        located([])


def test_only_what_has_been_killed_counts_as_killed() -> None:
    with lab.live() as victim, Watched(victim.pid) as watched:
        assert not watched.is_killed()
        assert not wait_killed(watched, 0)
    # A leader that has gone while its threads work on.
    with lab.zombie_leader() as victim, Watched(victim.pid) as watched:
        assert not watched.is_killed()
    with lab.stopped() as victim, Watched(victim.pid) as watched:
        assert not watched.is_killed()
    with lab.unkillable(worker=True) as victim, Watched(victim.pid) as watched:
        assert not watched.is_killed()
        victim.kill()
        assert wait_killed(watched, 60)
        assert not watched.has_exited()
        victim.let_go()
        assert watched.has_exited(60)
        assert not watched.is_killed()


@pytest.mark.usefixtures("process_mrelease")
def test_what_was_killed_in_vain_is_released(node: Client) -> None:
    with lab.d_state(SIZE, worker=True) as victim, Watched(victim.pid) as watched:
        result = release(watched, node, reason="a test", timeout=30, patience=0)
        assert result is not None
        assert result.is_released
        assert lab.rss_anon(victim.pid) < SIZE


@pytest.mark.usefixtures("process_mrelease")
def test_a_helper_waits_for_the_kill_and_releases(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    with lab.unkillable(SIZE, worker=True) as victim:
        helper = Helper()
        helper.give(Order(identify(victim.pid), "a test", 30.0, 60.0))
        victim.kill()
        report = helper.wait()
        assert (report.is_asked, report.is_back) == (True, True), report
        assert lab.rss_anon(victim.pid) < SIZE


def ordered(order: Order) -> Report:
    helper = Helper()
    assert helper.is_there()
    helper.give(order)
    return helper.wait()


def test_a_helper_leaves_alone_what_nobody_kills(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    with lab.live(SIZE) as victim:
        assert ordered(Order(identify(victim.pid), "a test", 5.0, 0.0)) == Report(
            False, False, "nobody has killed the process, so nothing was done"
        )
        assert not victim.exited(0)
        # Another process, by its start, under the same number.
        other = {**identify(victim.pid), "start_time_ticks": 1, "pidfd_inode": 0}
        assert ordered(Order(other, "a test", 5.0, 0.0)).is_back
        assert not victim.exited(0)


def test_a_helper_says_that_no_agent_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT", f"unix://{tmp_path / 'nobody.sock'}")
    with lab.d_state(SIZE, worker=True) as victim:
        report = ordered(Order(identify(victim.pid), "a test", 5.0, 0.0))
        assert (report.is_asked, report.is_back) == (True, False)
        assert "nobody.sock" in report.message
