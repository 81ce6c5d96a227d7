"""A grace period: the target is asked to end first, and killed when it does not."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal

import pytest

from mrelease import Cgroup, Client, Container, Outcome, Process, Step, Verdict, Wait, errors
from mrelease_agent.linux import cgroup_tree
from support import lab
from support.lab.cgroups import cgroup_below
from support.signals import handler

SIZE = 16 * lab.MIB
#: Longer than any test may take: what answers before it ended early.
LONG = 110.0


def test_who_ends_by_himself_is_not_killed(node: Client) -> None:
    with handler(size=SIZE) as asked:
        (found,) = node.kill_and_release(Process(asked.pid), grace_period=LONG).processes
        assert asked.said() == ["SIGTERM"]
        assert asked.process.wait() == 0
    assert found.outcome is Outcome.EXITED
    assert found.step is Step.GRACE
    assert found.released_bytes >= SIZE * 0.98
    assert found.exit_duration is not None
    assert found.release_attempts == 0


def test_who_does_not_is_killed_and_released(node: Client) -> None:
    with handler(what="ignore", size=SIZE) as asked:
        (found,) = node.kill_and_release(Process(asked.pid), grace_period=0.05, wait=Wait.EXITED).processes
        assert asked.said() == ["SIGTERM"]
        assert asked.process.wait() == -signal.SIGKILL
    assert found.outcome in (Outcome.RELEASED, Outcome.EXITED)
    assert found.step in (Step.RELEASE, Step.EXIT)
    assert found.released_bytes >= SIZE * 0.98


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1", "SIGRTMIN+3"])
def test_any_signal_may_begin_it(node: Client, name: str) -> None:
    number = signal.SIGRTMIN + 3 if "+" in name else signal.Signals[name]
    if "+" in name:
        # Real-time signals have no names of their own in Python: without a handler it dies of this one.
        with lab.live(SIZE) as victim:
            (found,) = node.kill_and_release(Process(victim.pid), grace_period=LONG, signal=name).processes
            assert found.step is Step.GRACE
            assert victim.exited()
        return
    with handler(name) as asked:
        node.kill_and_release(Process(asked.pid), grace_period=LONG, signal=name)
        assert asked.said() == [signal.Signals(number).name]


def test_a_stopped_process_is_woken_to_hear_it(node: Client) -> None:
    with handler(size=SIZE) as asked:
        os.kill(asked.pid, signal.SIGSTOP)
        lab.until(lambda: lab.state(asked.pid) == "T", "it is stopped")
        (found,) = node.kill_and_release(Process(asked.pid), grace_period=LONG).processes
        assert found.step is Step.GRACE
        assert asked.said() == ["SIGTERM"]


def test_of_a_container_the_first_process_is_asked_and_the_rest_killed(node: Client) -> None:
    cid = secrets.token_hex(32)
    with (
        lab.memory_cgroup() as group,
        cgroup_below(group, f"k8s.io/{cid}") as container,
        handler(within=[container.path]) as main,
        handler(within=[container.path]) as child,
    ):
        result = node.kill_and_release(Container(cid), grace_period=0.5, wait=Wait.EXITED)
        assert main.said() == ["SIGTERM"]
        assert child.said() == []
    assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
    found = {process.pid: process for process in result.processes}
    assert found[main.pid].step is Step.GRACE
    assert found[child.pid].step is not Step.GRACE


def test_of_a_cgroup_all_are_asked(node: Client) -> None:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    with lab.memory_cgroup() as group, contextlib.ExitStack() as stack:
        asked = [stack.enter_context(handler(within=[group.path])) for _ in range(3)]
        path = "/" + str(group.path.relative_to(tree.mount.path))
        result = node.kill_and_release(Cgroup(tree.top.rstrip("/") + path), grace_period=LONG)
        assert [each.said() for each in asked] == [["SIGTERM"]] * 3
    assert result.verdict is Verdict.EXITED
    assert {process.step for process in result.processes} == {Step.GRACE}


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("signal", {"signal": "SIGTERM"}),
        ("signal", {"signal": "SIGKILL", "grace_period": 1.0}),
        ("signal", {"signal": "SIGSTOP", "grace_period": 1.0}),
        ("signal", {"signal": "TERM; rm", "grace_period": 1.0}),
        ("signal", {"signal": "15", "grace_period": 1.0}),
        ("signal", {"signal": "SIGRTMIN+99", "grace_period": 1.0}),
        ("signal", {"signal": "SIGTERM+1", "grace_period": 1.0}),
        ("grace_period", {"grace_period": -1.0}),
        ("grace_period", {"grace_period": 1e6}),
    ],
)
def test_what_is_no_grace_period_is_refused(node: Client, field: str, arguments: dict[str, object]) -> None:
    with lab.live(SIZE) as victim:
        with pytest.raises(errors.InvalidField) as caught:
            node.kill_and_release(Process(victim.pid), **arguments)  # type: ignore[arg-type]
        assert caught.value.metadata["field"] == field
        assert not victim.exited(0)
