"""The audit log of a running agent: durable before the first signal, closed after a crash, one chain under load."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrelease import Client, Container, Process, Verdict, errors
from support import lab, scrape, seam_agent
from support.agent import Agent, running_agent
from support.audit_log import events, files, records, sound
from support.lab.cgroups import cgroup_below
from support.lab.faulty_fs import faulty_fs

SIZE = 4 * lab.MIB


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def flags(log: Path, *more: str) -> list[str]:
    return [*scrape.FLAGS, "--log-format", "json", "--audit-dir", str(log), *more]


def test_who_had_what_killed_and_what_came_of_it(run_dir: Path, log: Path) -> None:
    request_id = str(uuid.uuid4())
    with running_agent(run_dir, *flags(log)) as agent, agent.client() as node, lab.live(SIZE) as victim:
        result = node.kill_and_release(Process(victim.pid), reason="preempted by job 99", request_id=request_id)
        again = node.kill_and_release(Process(victim.pid), reason="preempted by job 99", request_id=request_id)
        assert again.replayed
        assert agent.terminate() == 0
    (asked,), (ended,) = events(log, "intent"), events(log, "result")
    assert asked["caller"]["transport"] == "unix"
    assert (asked["method"], asked["kind"], asked["request_id"], asked["reason"]) == (
        "KillAndRelease", "process", request_id, "preempted by job 99",
    )  # fmt: skip
    (process,) = asked["processes"]
    done = result.processes[0].process
    assert (process["pid"], process["inode"], process["start"]) == (victim.pid, done.pidfd_inode, done.start_time_ticks)
    assert process["size"] >= SIZE
    assert process["uid"] == os.geteuid()
    assert (ended["intent"], ended["verdict"], ended["released"]) == (asked["seq"], result.verdict.name, result.released_bytes)
    assert [record["event"] for record in records(log)] == ["begin", "start", "intent", "result", "stop"]
    sound(log)


def test_nobody_is_killed_before_the_intent_is_on_the_disk(run_dir: Path) -> None:
    with faulty_fs() as disk, lab.live(SIZE) as victim, ThreadPoolExecutor(1) as pool:
        with running_agent(run_dir, *flags(disk.path)) as agent, agent.client() as node:
            disk.fault(FSYNC="hold")
            call = pool.submit(node.kill_and_release, Process(victim.pid))
            disk.wait_held("FSYNC")
            # It is written, and the disk has not said yet that it has it: the victim lives.
            assert [record["processes"][0]["pid"] for record in events(disk.path, "intent")] == [victim.pid]
            assert not victim.exited(0)
            assert not call.done()
            disk.fault(FSYNC=None)
            assert call.result().is_released
            assert victim.exited()
            assert agent.terminate() == 0
        sound(disk.path)


def test_what_fails_after_the_intent_is_in_its_result(run_dir: Path, log: Path) -> None:
    with running_agent(run_dir, *flags(log)) as agent, agent.client() as node, lab.live(SIZE) as victim:
        with pytest.raises(errors.NotDying):
            node.release(Process(victim.pid))
        with pytest.raises(errors.ProcessNotFound):
            node.kill_and_release(Process(4194303))
        assert node.kill_and_release(Process(victim.pid), validate_only=True).verdict is Verdict.VALIDATED
        assert not victim.exited(0)
        assert agent.terminate() == 0
    assert [record.get("kill") for record in events(log, "intent")] in ([False], [])
    assert [record["error"] for record in events(log, "result")] == ["NOT_DYING"] * len(events(log, "intent"))
    sound(log)


@pytest.mark.parametrize("step", ["resolve", "kill", "prove"])
def test_an_agent_that_dies_at_any_step_leaves_a_log_that_the_next_one_closes(step: str, run_dir: Path, log: Path) -> None:
    with lab.live(SIZE) as victim:
        with running_agent(run_dir, *flags(log), prefix=seam_agent.seam("die", step)) as agent, agent.client() as node:
            with pytest.raises(errors.ConnectionLost):
                node.kill_and_release(Process(victim.pid), timeout=60)
            assert agent.process.wait(60) == -signal.SIGKILL
        intents = [record["seq"] for record in events(log, "intent")]
        if victim.exited(0):
            assert len(intents) == 1
        sound(log)
        with running_agent(run_dir, *flags(log)) as agent:
            assert agent.terminate() == 0
    assert [record["intent"] for record in events(log, "interrupted")] == intents
    assert events(log, "result") == []
    sound(log)


def test_no_record_is_lost_under_load_and_rotation(run_dir: Path, log: Path) -> None:
    callers, each = 32, 6
    small = ("--audit-max-file", "65536", "--audit-max-files", "1000")
    with running_agent(run_dir, *flags(log, *small)) as agent, contextlib.ExitStack() as stack:
        victims = [stack.enter_context(lab.live(0)) for _ in range(callers)]

        def call(number: int) -> list[str]:
            ids = [str(uuid.uuid4()) for _ in range(each)]
            with agent.client() as node:
                node.kill_and_release(Process(victims[number].pid), request_id=ids[0], reason="r" * 400)
                for request_id in ids[1:]:  # it is gone, or not reaped yet
                    with contextlib.suppress(errors.MreleaseError):
                        node.release(Process(victims[number].pid), request_id=request_id, reason="r" * 400)
            return ids

        with ThreadPoolExecutor(callers) as pool:
            asked = [request_id for ids in pool.map(call, range(callers)) for request_id in ids]
        assert agent.terminate() == 0
    intents = events(log, "intent")
    assert {record["request_id"] for record in intents} <= set(asked)
    assert len({record["request_id"] for record in intents if record["kill"]}) == callers
    assert sorted(record["intent"] for record in events(log, "result")) == sorted(record["seq"] for record in intents)
    assert len(files(log)) > 1
    assert events(log, "interrupted") == []
    report = sound(log)
    assert report.records == len(records(log))


def test_all_processes_of_a_container_are_named(run_dir: Path, log: Path) -> None:
    name = uuid.uuid4().hex * 2
    with lab.memory_cgroup() as above, cgroup_below(above, name, ["memory"]) as group, contextlib.ExitStack() as stack:
        victims = [stack.enter_context(lab.live(0, within=[group])) for _ in range(12)]
        with running_agent(run_dir, *flags(log)) as agent, agent.client() as node:
            assert node.kill_and_release(Container(name)).is_released
            assert agent.terminate() == 0
    (asked,) = events(log, "intent")
    assert (asked["total"], asked["kind"]) == (12, "container")
    assert {process["pid"] for process in asked["processes"]} == {victim.pid for victim in victims}
    assert {process["container"] for process in asked["processes"]} == {name}
    (ended,) = events(log, "result")
    assert {fate["pid"] for fate in ended["processes"]} == {victim.pid for victim in victims}
    assert sum(ended["outcomes"].values()) == 12
    sound(log)


def test_the_head_is_logged_for_who_collects_logs_elsewhere(run_dir: Path, log: Path) -> None:
    with running_agent(run_dir, *flags(log)) as agent:
        assert agent.terminate() == 0
        last = records(log)[-1]
        anchor = scrape.wait_event(agent, "audit head", seq=last["seq"])
    assert anchor["hash"] == last["hash"]


def test_metrics_and_doctor_say_that_there_is_a_log(run_dir: Path, log: Path) -> None:
    with running_agent(run_dir, *flags(log)) as agent, agent.client() as node, lab.live(0) as victim:
        node.kill_and_release(Process(victim.pid))
        scrape.wait_metric(agent, 1, "mrelease_audit_records_total", event="intent")
        scrape.wait_metric(agent, 1, "mrelease_audit_records_total", event="result")
        assert scrape.metric(agent, "mrelease_audit_available") == 1
        assert scrape.metric(agent, "mrelease_audit_sync_seconds_count") >= 1
        assert scrape.metric(agent, "mrelease_capability", feature="audit") == 1
        assert can_audit(node)
    with running_agent(run_dir) as agent, agent.client() as node:
        assert not can_audit(node)


def can_audit(node: Client) -> bool:
    return next(found.available for found in node.get_node().capabilities if found.feature.name == "AUDIT")


def test_a_second_agent_waits_until_the_first_has_ended(run_dir: Path, tmp_path: Path, log: Path) -> None:
    with lab.live(SIZE) as victim, running_agent(run_dir, *flags(log)) as first, running_agent(tmp_path / "second", *flags(log)) as second:
        assert_unavailable(second, "another agent writes it")
        with second.client() as node:
            with pytest.raises(errors.AuditUnavailable, match="another agent writes it"):
                node.kill_and_release(Process(victim.pid))
            assert not victim.exited(0)
            assert first.terminate() == 0
            lab.until(lambda: scrape.get(second, "/readyz")[0] == 200, "the second agent is ready")
            assert node.kill_and_release(Process(victim.pid)).is_released
        assert second.terminate() == 0
    assert [record["pid"] for record in events(log, "start")] == [first.pid, second.pid]
    sound(log)


def assert_unavailable(agent: Agent, why: str) -> None:
    status, text = scrape.get(agent, "/readyz")
    assert (status, why in text) == (503, True), text
