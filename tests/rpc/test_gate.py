"""Whatever the order of events: never a signal to a process that was not opened, allowed, counted and recorded before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrelease.v1 import target_pb2
from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.outcome import Outcome
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.targets.plugins import Found, FoundProcess
from support import lab
from support.gated import Guard, carry_out, order_for, sleepers


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Generator[list[tuple[int, int]]]:
    """Every signal that the agent's code sends, as (pid, number); 0 only asks."""
    sent: list[tuple[int, int]] = []
    real = ProcessRef.send_signal

    def send(ref: ProcessRef, number: int) -> None:
        if number:
            sent.append((ref.pid, number))
        real(ref, number)

    monkeypatch.setattr(ProcessRef, "send_signal", send)
    yield sent
    sent.clear()


events = st.fixed_dictionaries(
    {
        "granted": st.booleans(),
        "covers": st.booleans(),
        "allowed": st.sampled_from([0, 1, 100]),
        "records": st.booleans(),
        "unrestricted": st.booleans(),
        "kill": st.booleans(),
        "dry": st.booleans(),
        "grace": st.sampled_from([0.0, 0.01]),
        "dead": st.sampled_from(["no", "zombie", "gone"]),
        "inode": st.sampled_from(["none", "right", "wrong"]),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events)
def test_no_signal_without_grant_count_and_record(signals: list[tuple[int, int]], said: dict[str, object]) -> None:
    signals.clear()
    with sleepers(1) as (victim,):
        target = target_pb2.Target(process=target_pb2.ProcessTarget(pid=victim.pid))
        if said["inode"] != "none":
            with ProcessRef.open(victim.pid) as ref:
                target.process.start_time_ticks = ref.stat.start_time + (said["inode"] == "wrong")
        if said["dead"] != "no":
            victim.kill()
            os.waitid(os.P_PID, victim.pid, os.WEXITED | (os.WNOWAIT if said["dead"] == "zombie" else 0))
        guard = Guard(
            granted=bool(said["granted"]),
            covered=frozenset([victim.pid]) if said["covers"] else frozenset(),
            allowed=int(str(said["allowed"])),
            records=(bool(said["records"]),),
            unrestricted=bool(said["unrestricted"]),
        )
        order = order_for(target, kill=bool(said["kill"]), dry=bool(said["dry"]), grace=float(str(said["grace"])))
        error: RpcError | None = None
        try:
            asyncio.run(carry_out(guard, order))
        except RpcError as refused:
            error = refused
        recorded = ("recorded", victim.pid) in guard.events
        for pid, _ in signals:
            assert pid == victim.pid
            assert guard.granted
            assert order.plan.kill
            assert not order.validate_only
            assert guard.unrestricted or ("covered", pid) in guard.events
            assert ("counted", pid) in guard.events
            assert recorded
        assert len(guard.results) == recorded, "what has an intent has a result, and nothing else has"
        if not guard.granted or not (guard.unrestricted or said["covers"]):
            assert error is not None
            assert error.details.reason == "CALLER_NOT_PERMITTED"
        if said["dead"] != "gone" and not signals and said["dead"] == "no":
            assert victim.poll() is None


def test_the_answer_is_the_same_whether_the_target_exists_or_not() -> None:
    answers: list[tuple[str, object]] = []
    with sleepers(1) as (victim,), lab.reaped() as gone:
        for pid in (victim.pid, gone.pid, 1, os.getpid()):
            with pytest.raises(RpcError) as refused:
                asyncio.run(carry_out(Guard(covered=frozenset()), order_for(target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid)))))
            answers.append((refused.value.message, refused.value.details))
        assert victim.poll() is None
    assert all(answer == answers[0] for answer in answers)


@pytest.fixture
def group() -> Generator[lab.Cgroup]:
    with lab.memory_cgroup() as made:
        yield made


def _cgroup(group: lab.Cgroup) -> target_pb2.Target:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    return target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=f"{tree.top.rstrip('/')}/{group.path.relative_to(tree.mount.path)}"))


@contextlib.contextmanager
def members(group: lab.Cgroup, count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    with sleepers(count) as made:
        for process in made:
            group.add(process.pid)
        yield made


def test_one_process_that_is_not_allowed_saves_the_whole_group(group: lab.Cgroup, signals: list[tuple[int, int]]) -> None:
    with members(group, 3) as (first, second, third):
        guard = Guard(covered=frozenset([first.pid, third.pid]))
        with pytest.raises(RpcError) as refused:
            asyncio.run(carry_out(guard, order_for(_cgroup(group))))
        assert refused.value.details.reason == "CALLER_NOT_PERMITTED"
        assert not signals
        assert not guard.results
        assert all(process.poll() is None for process in (first, second, third))


def test_a_group_over_the_limit_is_left_alone_as_a_whole(group: lab.Cgroup, signals: list[tuple[int, int]]) -> None:
    with members(group, 3) as made:
        guard = Guard(allowed=2)
        with pytest.raises(RpcError) as refused:
            asyncio.run(carry_out(guard, order_for(_cgroup(group))))
        assert refused.value.details.reason == "KILL_LIMIT"
        assert refused.value.details.retry_after == 3.0
        assert guard.allowed == 2
        assert not signals
        assert all(process.poll() is None for process in made)


def test_nothing_of_a_group_dies_where_its_intent_cannot_be_recorded(group: lab.Cgroup, signals: list[tuple[int, int]]) -> None:
    with members(group, 2) as made:
        with pytest.raises(RpcError) as refused:
            asyncio.run(carry_out(Guard(records=(False,)), order_for(_cgroup(group))))
        assert refused.value.details.reason == "AUDIT_UNAVAILABLE"
        assert not signals
        assert all(process.poll() is None for process in made)


FORKS = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: (os.fork() or signal.pause()))
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("recorded", [True, False])
def test_what_the_target_forks_meanwhile_is_recorded_before_it_dies(
    group: lab.Cgroup, signals: list[tuple[int, int]], recorded: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        try:
            parent.stdout.readline()
            group.add(parent.pid)
            guard = Guard(records=(True, recorded, recorded, recorded))
            # SIGTERM makes it fork: the child was not there when the target was opened.
            done = asyncio.run(carry_out(guard, order_for(_cgroup(group), grace=0.2)))
            children = {report.process.pid: report.outcome for report in done.reports if report.process.pid != parent.pid}
            assert children, "the child was found"
            for pid, outcome in children.items():
                assert (("recorded", pid) in guard.events) == recorded
                assert (outcome is Outcome.NOT_PERMITTED) != recorded
                assert ((pid, signal.SIGKILL) in signals) <= recorded
            assert len(guard.results) == 1
        finally:
            for left in group.read("cgroup.procs").split():
                os.kill(int(left), signal.SIGKILL)
            parent.kill()


def test_a_limit_of_the_agent_before_the_gate_signals_nothing(signals: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_pid: int) -> int:
        raise OSError(errno.EMFILE, "no descriptor is left")

    with sleepers(1) as (victim,):
        monkeypatch.setattr(os, "pidfd_open", full)
        with pytest.raises(RpcError) as refused:
            asyncio.run(carry_out(Guard(), order_for(target_pb2.Target(process=target_pb2.ProcessTarget(pid=victim.pid)))))
        assert refused.value.details.reason == "AGENT_LIMIT"
        assert not signals
        assert victim.poll() is None


class Naming:
    """A plugin that names processes; after so many questions it also names ``later``."""

    def __init__(self, *first: FoundProcess, later: Sequence[FoundProcess] = (), after: int = 1) -> None:
        self._first, self._later, self._after = first, later, after
        self.asked = 0

    def find(self, attributes: Mapping[str, str], /) -> Found:  # noqa: ARG002
        self.asked += 1
        return Found(processes=(*self._first, *(self._later if self.asked > self._after else ())))


def named(pid: int, late: int = 0) -> FoundProcess:
    return FoundProcess(pid, procfs.start_time(pid) + late)


CUSTOM = target_pb2.Target(custom=target_pb2.CustomTarget(kind="demo", attributes={"job": "1"}))


custom_events = st.fixed_dictionaries(
    {
        "granted": st.booleans(),
        "covers": st.booleans(),
        "allowed": st.sampled_from([0, 1, 100]),
        "records": st.booleans(),
        "unrestricted": st.booleans(),
        "kill": st.booleans(),
        "dry": st.booleans(),
        "wrong": st.booleans(),
        "dead": st.sampled_from(["no", "zombie", "gone"]),
        "again": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(custom_events)
def test_no_signal_to_what_a_plugin_names_without_grant_count_and_record(signals: list[tuple[int, int]], said: dict[str, object]) -> None:
    signals.clear()
    with sleepers(2) as (victim, later):
        plugin = Naming(named(victim.pid, int(bool(said["wrong"]))), later=[named(later.pid)] if said["again"] else [])
        if said["dead"] != "no":
            victim.kill()
            os.waitid(os.P_PID, victim.pid, os.WEXITED | (os.WNOWAIT if said["dead"] == "zombie" else 0))
        guard = Guard(
            granted=bool(said["granted"]),
            covered=frozenset([victim.pid]) if said["covers"] else frozenset(),
            allowed=int(str(said["allowed"])),
            records=(bool(said["records"]),),
            unrestricted=bool(said["unrestricted"]),
        )
        order = order_for(CUSTOM, kill=bool(said["kill"]), dry=bool(said["dry"]))
        with contextlib.suppress(RpcError):
            asyncio.run(carry_out(guard, order, plugin))
        for pid, _ in signals:
            assert pid in (victim.pid, later.pid)
            assert guard.granted
            assert order.plan.kill
            assert not order.validate_only
            assert guard.unrestricted or ("covered", pid) in guard.events
            assert ("counted", pid) in guard.events
            assert ("recorded", pid) in guard.events
        assert not (said["wrong"] and signals), "another process has the pid"
        if said["dead"] == "no" and victim.pid not in {pid for pid, _ in signals}:
            assert victim.poll() is None
        if later.pid not in {pid for pid, _ in signals}:
            assert later.poll() is None


def test_a_plugin_is_asked_again_until_it_names_nobody_new(signals: list[tuple[int, int]]) -> None:
    with sleepers(3) as (first, second, other):
        plugin = Naming(named(first.pid), later=[named(second.pid), named(other.pid, 1)])
        guard = Guard()
        done = asyncio.run(carry_out(guard, order_for(CUSTOM), plugin))
        assert {report.process.pid for report in done.reports} == {first.pid, second.pid}
        assert plugin.asked >= 3, "nobody is left when it has named nobody new"
        for pid in (first.pid, second.pid):
            assert ("recorded", pid) in guard.events
            assert (pid, signal.SIGKILL) in signals
        assert other.poll() is None


def test_a_plugin_that_fails_when_it_is_asked_again_spoils_nothing(signals: list[tuple[int, int]]) -> None:
    class Failing(Naming):
        def find(self, attributes: Mapping[str, str], /) -> Found:
            if self.asked:
                raise ValueError
            return super().find(attributes)

    with sleepers(1) as (victim,):
        done = asyncio.run(carry_out(Guard(), order_for(CUSTOM), Failing(named(victim.pid))))
        assert [report.process.pid for report in done.reports] == [victim.pid]
        assert (victim.pid, signal.SIGKILL) in signals


def test_one_that_may_not_be_killed_saves_all_that_a_plugin_names(signals: list[tuple[int, int]]) -> None:
    with sleepers(2) as (mine, foreign):
        with pytest.raises(RpcError) as refused:
            asyncio.run(carry_out(Guard(covered=frozenset([mine.pid])), order_for(CUSTOM), Naming(named(mine.pid), named(foreign.pid))))
        assert refused.value.details.reason == "CALLER_NOT_PERMITTED"
        assert not signals
