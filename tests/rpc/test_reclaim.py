"""Reclaim: never two when one is enough, whatever the candidates; the caller's order; who cannot be killed is passed over."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrelease import (
    Client,
    NodeRef,
    Outcome,
    PressureGoal,
    Process,
    ReclaimedCandidate,
    ReclaimEvent,
    ReclaimStarted,
    ReclaimSummary,
    Verdict,
    errors,
)
from support import lab, scrape, seam_agent
from support.agent import Agent, running_agent

MIB = lab.MIB


def outcome(events: Sequence[ReclaimEvent]) -> tuple[list[ReclaimedCandidate], ReclaimSummary]:
    """The candidates dealt with, and the summary, which is the last event and the only one."""
    *others, summary = events
    assert isinstance(summary, ReclaimSummary)
    assert not any(isinstance(event, ReclaimSummary) for event in others)
    told = [event for event in others if isinstance(event, ReclaimedCandidate)]
    started = [event.index for event in others if isinstance(event, ReclaimStarted)]
    assert started == [each.index for each in told] == sorted(set(started))
    return told, summary


@contextlib.contextmanager
def victims(*sizes: int) -> Generator[list[lab.Victim], None, None]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(lab.live(size)) for size in sizes]


def alive(found: Sequence[lab.Victim]) -> list[bool]:
    return [not victim.exited(0) for victim in found]


@pytest.mark.parametrize("seed", range(6))
def test_without_the_last_victim_the_goal_would_not_be_met(node: Client, seed: int) -> None:
    """The property: candidates of random sizes, some gone, some named twice, a random goal."""
    chance = random.Random(seed)
    sizes = [chance.randint(1, 24) * MIB for _ in range(chance.randint(1, 6))]
    with victims(*sizes) as found, lab.reaped() as gone:
        candidates = [Process(victim.pid) for victim in found] + [Process(gone.pid)]
        candidates += chance.choices(candidates, k=2)
        chance.shuffle(candidates)
        goal = chance.randint(1, sum(sizes) * 5 // 4)
        told, summary = outcome(list(node.reclaim(candidates, released_bytes=goal)))
        killed = [each for each in told if each.result is not None]
        gains = [each.result.released_bytes for each in killed if each.result is not None]
        assert sum(gains) == summary.released_bytes
        assert len(killed) == summary.candidates_killed
        assert summary.goal_met == (sum(gains) >= goal)
        if killed:
            assert sum(gains[:-1]) < goal, "the last one died for nothing"
        if not summary.goal_met:
            assert len(told) == len(candidates), "somebody was left who could have helped"
        dead = {candidates[each.index].pid for each in killed}
        assert {victim.pid for victim in found if victim.exited(10 if victim.pid in dead else 0)} == dead


def test_the_next_one_lives_when_the_goal_is_met(node: Client) -> None:
    with victims(32 * MIB, 16 * MIB) as found:
        told, summary = outcome(list(node.reclaim([Process(v.pid) for v in found], released_bytes=30 * MIB)))
        assert summary.goal_met
        assert [each.index for each in told] == [0]
        assert told[0].result is not None
        assert told[0].result.processes[0].pid == found[0].pid
        assert found[0].exited()
        assert alive(found) == [False, True]


def test_a_goal_that_is_met_already_kills_nobody(node: Client) -> None:
    with victims(MIB) as found:
        told, summary = outcome(list(node.reclaim([Process(found[0].pid)], available_bytes=1)))
        assert summary.goal_met
        assert not told
        assert alive(found) == [True]


def test_available_memory_is_given_time_to_be_counted(node: Client) -> None:
    """One victim is worth what is missing and more: the kernel's counter lags, the second must not die for that."""
    with victims(1024 * MIB, 64 * MIB) as found:
        memory = node.get_node().memory
        assert memory is not None
        goal = memory.available_bytes + 64 * MIB  # others on the node may take the rest meanwhile
        told, summary = outcome(list(node.reclaim([Process(v.pid) for v in found], available_bytes=goal)))
        assert summary.goal_met
        assert len(told) == 1
        assert alive(found)[1]


def test_pressure_below(node: Client) -> None:
    with victims(MIB) as found:
        told, summary = outcome(list(node.reclaim([Process(found[0].pid)], pressure_below=PressureGoal(100))))
        assert summary.goal_met
        assert not told
        assert alive(found) == [True]


def test_who_cannot_be_killed_is_passed_over_and_said(node: Client) -> None:
    with victims(8 * MIB) as found, lab.reaped() as gone:
        candidates = [Process(1), Process(gone.pid), Process(lab.kernel_thread()), Process(found[0].pid, start_time_ticks=1)]
        candidates += [Process(found[0].pid)] * 2
        told, summary = outcome(list(node.reclaim(candidates, released_bytes=1 << 40)))
        reasons = [each.passed_over.reason if each.passed_over else "" for each in told]
        assert reasons == ["PROTECTED", "PROCESS_NOT_FOUND", "KERNEL_THREAD", "IDENTITY_MISMATCH", "", "TARGET_NOT_FOUND"]
        assert all(each.passed_over.remedy for each in told if each.passed_over)
        assert not summary.goal_met
        assert (summary.candidates_killed, summary.candidates_passed_over) == (1, 5)


def test_a_dry_run_names_who_would_die_and_signals_nobody(node: Client) -> None:
    with victims(64 * MIB, 64 * MIB, 64 * MIB) as found:
        told, summary = outcome(list(node.reclaim([Process(v.pid) for v in found], released_bytes=100 * MIB, validate_only=True)))
        assert [each.result.verdict for each in told if each.result] == [Verdict.VALIDATED] * 2
        assert summary.goal_met
        assert summary.released_bytes >= 128 * MIB * 0.98
        assert alive(found) == [True] * 3


def test_one_that_is_held_is_diagnosed_before_the_next_dies(node: Client) -> None:
    with lab.unkillable() as held, victims(8 * MIB) as found, lab.clone_vm_sharer(8 * MIB) as shared:
        candidates = [Process(shared.pid), Process(found[0].pid)]
        told, summary = outcome(list(node.reclaim(candidates, released_bytes=4 * MIB, timeout=0.5)))
        assert told[0].result is not None
        assert told[0].result.processes[0].outcome is Outcome.SHARED_MM
        assert summary.goal_met
        assert summary.candidates_killed == 2
        assert not held.exited(0)


def test_when_the_caller_goes_away_no_other_one_dies(run_dir: Path, tmp_path: Path) -> None:
    with seam_agent.gate(tmp_path / "gate") as gate, victims(8 * MIB, 8 * MIB) as found:
        with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json", prefix=seam_agent.seam("gate", str(gate))) as agent:
            _leave(agent, found, gate)
        assert alive(found)[1]


def _leave(agent: Agent, found: list[lab.Victim], gate: Path) -> None:
    with agent.client() as node, lab.hold_at_exit(found[0]) as hold, ThreadPoolExecutor(1) as pool:
        stream = node.reclaim([Process(victim.pid) for victim in found], released_bytes=1 << 40)
        assert isinstance(next(stream), ReclaimStarted)
        waiting = pool.submit(lambda: list(stream))
        hold.wait_held()
        node.close()
        assert isinstance(waiting.exception(), (errors.Cancelled, ValueError))
        with seam_agent.opened(gate):
            operation = scrape.wait_event(agent, "operation", pid=found[0].pid)
    assert operation["outcome"] == "RELEASED"
    scrape.wait_metric(agent, 0, "mrelease_operations_in_flight")


def test_the_wrong_node_does_nothing(node: Client) -> None:
    with victims(MIB) as found:
        with pytest.raises(errors.NodeMismatch):
            list(node.reclaim([Process(found[0].pid)], released_bytes=1, node=NodeRef("another")))
        assert alive(found) == [True]


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("goal.released_bytes", {"released_bytes": 0}),
        ("goal.available_bytes", {"available_bytes": -1}),
        ("goal.pressure_below.percent", {"pressure_below": PressureGoal(0)}),
        ("goal.pressure_below.percent", {"pressure_below": PressureGoal(float("nan"))}),
        ("timeout", {"released_bytes": 1, "timeout": -1}),
        ("reap_delay", {"released_bytes": 1, "reap_delay": 2}),
        ("signal", {"released_bytes": 1, "signal": "SIGTERM"}),
    ],
)
def test_a_hostile_request_names_its_field(node: Client, field: str, arguments: dict[str, object]) -> None:
    with victims(MIB) as found:
        with pytest.raises(errors.InvalidField) as caught:
            list(node.reclaim([Process(found[0].pid)], **arguments))  # type: ignore[arg-type]
        assert caught.value.metadata["field"] == field
        assert alive(found) == [True]


def test_candidates_are_bounded_and_each_is_checked_first(node: Client) -> None:
    with victims(MIB) as found:
        good = Process(found[0].pid)
        for candidates, field in (([], "candidates"), ([good] * 1001, "candidates"), ([good, Process(-1)], "candidates[1].process.pid")):
            with pytest.raises(errors.InvalidField) as caught:
                list(node.reclaim(candidates, released_bytes=1))
            assert caught.value.metadata["field"] == field
        assert alive(found) == [True]
