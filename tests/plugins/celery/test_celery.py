"""Celery, the real one: a task that its worker cannot end, with and without us."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Process, resolvers
from mrelease.errors import InvalidReference, NotPlaced, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers import conformance
from plugins.celery.broker import Broker, Worker, broker, client_of, limited
from plugins.stuck import NOTHING, SIZE, next_stuck
from support import lab
from support.agent import Agent
from support.lab import HangFs

pytestmark = pytest.mark.plugins


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Generator[Broker]:
    """A broker."""
    pytest.importorskip("celery", reason="Celery is not installed: make test-plugins installs it")
    with broker(tmp_path_factory.mktemp("celery", numbered=True)) as started:
        yield started


@pytest.fixture(scope="module")
def plain(redis: Broker) -> Generator[Worker]:
    """A worker as everybody has it."""
    with redis.worker("plain") as worker:
        yield worker


@pytest.fixture(scope="module")
def ours(redis: Broker, plugin_agent: Agent) -> Generator[Worker]:
    """A worker whose tasks have our base class, and an agent."""
    with redis.worker("ours", {"TEST_WITH_US": "1", "MRELEASE_AGENT": plugin_agent.address}) as worker:
        yield worker


@pytest.fixture
def asking(redis: Broker, plugin_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which resolvers find the broker, and the agent of this node."""
    monkeypatch.setenv("CELERY_BROKER_URL", redis.url)
    monkeypatch.setenv("MRELEASE_AGENTS", f"{os.uname().nodename}={plugin_agent.address}")


def test_celery_alone_reports_the_failure_and_keeps_the_memory(redis: Broker, plain: Worker, hanging: HangFs) -> None:
    with limited(redis, plain, "plain.hang", hanging) as (result, stuck):
        assert type(result.wait()).__name__ == "TimeLimitExceeded"
        lab.until(stuck.is_killed, "Celery has killed it")
        lab.until(lambda: not redis.active(plain), "it is forgotten")
        assert stuck.held_bytes() >= SIZE
        # And its worker, which has two processes, still works with the other one.
        assert redis.send("plain.pid", queue="plain").wait() != stuck.pid
        assert stuck.held_bytes() >= SIZE


def test_a_time_limit_with_our_request_gives_it_back(redis: Broker, ours: Worker, hanging: HangFs) -> None:
    bystander = redis.send("ours.wait", queue="ours")
    with limited(redis, ours, "ours.hang", hanging) as (result, stuck):
        lab.until(lambda: bool(redis.processes(ours, bystander)), "the other process is busy")
        other = redis.processes(ours, bystander)
        assert type(result.wait()).__name__ == "TimeLimitExceeded"
        lab.until(lambda: stuck.held_bytes() < NOTHING, "the memory is back")
        assert not stuck.has_exited()
        assert redis.processes(ours, bystander) == other
        lab.until(lambda: f"process {stuck.pid} of task {result.id}" in ours.log, "the worker says so")
    redis.app.control.revoke(bystander.id, terminate=True, signal="SIGKILL", destination=[ours.name])
    lab.until(lambda: bystander.state == "REVOKED", "the bystander is over")


def test_so_does_a_task_that_is_revoked(redis: Broker, ours: Worker, hanging: HangFs) -> None:
    result = redis.send("ours.hang", SIZE, hanging.path, queue="ours")
    with next_stuck(hanging) as stuck:
        redis.app.control.revoke(result.id, terminate=True, signal="SIGKILL", destination=[ours.name])
        lab.until(lambda: stuck.held_bytes() < NOTHING, "the memory is back")
        lab.until(lambda: result.state == "REVOKED", "Celery says what it always says")
        assert not stuck.has_exited()


def test_a_worker_without_an_agent_does_what_it_always_does(
    redis: Broker, hanging: HangFs, tmp_path: Path, asking: None, plugin_agent: Agent
) -> None:
    away = {"TEST_WITH_US": "impatient", "MRELEASE_AGENT": f"unix://{tmp_path / 'nobody.sock'}"}
    with redis.worker("away", away) as worker, limited(redis, worker, "ours.hang", hanging) as (result, stuck):
        assert type(result.wait()).__name__ == "TimeLimitExceeded"
        lab.until(lambda: f"the memory of process {stuck.pid} of task {result.id} was not released" in worker.log, "it has warned")
        assert stuck.held_bytes() >= SIZE
        assert redis.send("plain.pid", queue="away").wait() != stuck.pid

        # Celery has forgotten the task. Its worker has not, so that it can still be asked for.
        (acted,) = resolvers.release(f"celery://{worker.name}/{result.id}", reason="a test")

        assert not isinstance(acted.result, Exception), acted.result
        assert acted.result.is_released
        assert stuck.held_bytes() < NOTHING


def test_a_task_that_its_limit_does_end_is_no_reason_for_a_warning(redis: Broker, ours: Worker) -> None:
    result = redis.send("ours.wait", queue="ours", time_limit=2)
    assert type(result.wait()).__name__ == "TimeLimitExceeded"
    assert redis.send("plain.pid", queue="ours").wait() > 0
    # Beside busy neighbours also such a process may need the agent to end soon.
    looked_after = (f"of task {result.id}: the process has ended", f"of task {result.id}, which was killed")
    lab.until(lambda: any(line in ours.log for line in looked_after), "it has been looked after")
    assert f"of task {result.id} was not released" not in ours.log


def test_a_reference_names_the_process_of_a_task(redis: Broker, ours: Worker, plain: Worker, asking: None) -> None:
    result = redis.send("ours.wait", queue="ours")
    lab.until(lambda: bool(redis.processes(ours, result)), "the task has begun")
    (pid,) = redis.processes(ours, result)
    for ref in (f"celery://{result.id}", f"celery://{ours.name}/{result.id}", f"celery://{ours.name}/*"):
        with resolvers.resolve(ref) as (placement,):
            assert isinstance(placement.target, Process)
            assert (placement.target.pid, placement.target.start_time_ticks) == (pid, lab.start_time(pid))
            assert placement.problem is None
    (acted,) = resolvers.kill_and_release(f"celery://{ours.name}/{result.id}")
    assert not isinstance(acted.result, Exception), acted.result
    assert acted.result.is_released
    assert type(result.wait()).__name__ == "WorkerLostError"


def test_references_that_lead_nowhere(redis: Broker, ours: Worker, plain: Worker, asking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReferenceNotFound), resolvers.resolve(f"celery://{ours.name}/nobody"):
        pass
    with pytest.raises(NotPlaced, match=r"mrelease\.integrations\.celery"), resolvers.resolve(f"celery://{plain.name}/nobody"):
        pass
    with pytest.raises(OrchestratorUnavailable, match="answer"), resolvers.resolve("celery://nobody@localhost/nobody", deadline=2):
        pass
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
    with pytest.raises(OrchestratorUnavailable) as refused, resolvers.resolve("celery://nobody", deadline=5):
        pass
    assert "secret" not in str(refused.value)
    monkeypatch.delenv("CELERY_BROKER_URL")
    with pytest.raises(OrchestratorUnavailable, match="which broker"), resolvers.resolve("celery://nobody"):
        pass


@pytest.mark.parametrize(
    "ref", ["celery://a@b", "celery://a@b/c/d", "celery://*", "celery://no%20id", "celery://a@b/c?x=1", "celery://worker/id"]
)
def test_what_is_no_task_is_refused(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celery", reason="Celery is not installed: make test-plugins installs it")
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://")
    with pytest.raises(InvalidReference), resolvers.resolve(ref):
        pass


def test_the_resolver_conforms(redis: Broker, ours: Worker, asking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrelease.resolvers.celery import Celery

    sent = redis.send("ours.wait", queue="ours")
    lab.until(lambda: bool(redis.processes(ours, sent)), "the task has begun")
    # It would win against the URL of an application.
    monkeypatch.delenv("CELERY_BROKER_URL")
    with conformance.silent_server() as silent:
        subject = conformance.Subject(
            lambda: Celery(client_of(redis.url)),
            good=f"celery://{ours.name}/{sent.id}",
            unknown=f"celery://{ours.name}/nobody",
            secrets=("secret-of-the-broker",),
            stuck=lambda: Celery(client_of(f"redis://:secret-of-the-broker@{silent}/0")),
        )
        assert [str(finding) for finding in conformance.check(subject) if not finding.passed] == []
    redis.app.control.revoke(sent.id, terminate=True, signal="SIGKILL", destination=[ours.name])
    lab.until(lambda: sent.state == "REVOKED", "the task is over")
