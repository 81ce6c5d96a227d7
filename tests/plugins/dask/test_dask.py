"""Dask, the real one: a worker that its nanny cannot end, with and without us."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mrelease import Process, resolvers
from mrelease.errors import IdentityMismatch, InvalidReference, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers import conformance
from plugins.dask.cluster import HANGING, Cluster, cluster, looked_at, overdone, pid_of, wait_workers
from plugins.dask.tasks import hold_the_interpreter
from plugins.stuck import NOTHING
from support import lab
from support.agent import Agent, running_agent
from support.lab import HangFs

pytestmark = pytest.mark.plugins


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Generator[Cluster]:
    """A scheduler."""
    pytest.importorskip("distributed", reason="Dask is not installed: make test-plugins installs it")
    with cluster(tmp_path_factory.mktemp("dask", numbered=True)) as started:
        yield started


@pytest.fixture
def found(plugin_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The agent, where a resolver finds it for this node."""
    monkeypatch.setenv("MRELEASE_AGENTS", f"{os.uname().nodename}={plugin_agent.address}")
    return plugin_agent


def test_nanny_alone_never_gets_the_memory_back_and_a_reference_does(dask: Cluster, found: Agent, hanging: HangFs) -> None:
    with dask.worker("alone"), dask.worker("other"), dask.client() as client:
        workers = wait_workers(client, "alone", "other")
        other = pid_of(client, workers["other"])
        with overdone(client, workers["alone"], hanging) as case:
            # Twenty looks of its memory monitor: the leader is a zombie without memory, so all is well.
            assert looked_at(client, case.worker, 20)
            assert case.stuck.held_bytes() >= HANGING
            assert case.future.status == "pending"

            (acted,) = resolvers.kill_and_release(f"dask://{dask.address}/alone", reason="a test")

            assert not isinstance(acted.result, Exception), acted.result
            assert acted.result.is_released
            assert acted.result.released_bytes >= HANGING * 0.98
            assert case.stuck.held_bytes() < NOTHING
            assert not case.stuck.has_exited()
        assert pid_of(client, workers["other"]) == other


def test_nannies_with_the_plugin_get_it_back_and_tell_the_scheduler(dask: Cluster, plugin_agent: Agent, hanging: HangFs) -> None:
    from mrelease.integrations.dask import TOPIC, ReleaseWorkers

    with dask.worker("helped"), dask.worker("other"), dask.client() as client:
        workers = wait_workers(client, "helped", "other")
        client.register_plugin(ReleaseWorkers(plugin_agent.address))
        other = pid_of(client, workers["other"])
        try:
            with overdone(client, workers["helped"], hanging) as case:
                lab.until(lambda: case.stuck.held_bytes() < NOTHING, "the memory is back")
                assert not case.stuck.has_exited()
                # The scheduler knows: what ran there failed as if the worker had exited.
                lab.until(lambda: case.future.status == "error", "the scheduler has been told")
                assert type(case.future.exception()).__name__ == "KilledWorker"
                lab.until(lambda: bool(client.get_events(TOPIC)), "there is an event")
                event = client.get_events(TOPIC)[-1][1]
                assert (event["worker"], event["pid"], event["is_back"]) == (case.worker, case.stuck.pid, True)
            assert pid_of(client, workers["other"]) == other
            assert client.submit(os.getpid, workers=[workers["other"]], pure=False).result(60) == other
            hanging.let_go()
            # Its thread could go on: the process ends, and its nanny starts the next one.
            wait_workers(client, "helped", "other")
        finally:
            client.unregister_worker_plugin("mrelease", nanny=True)


def test_nannies_go_on_without_an_agent_and_find_it_when_it_is_back(dask: Cluster, hanging: HangFs, tmp_path: Path) -> None:
    preload = ("--preload-nanny", "mrelease.integrations.dask")
    address = f"unix://{tmp_path / 'run' / 'agent.sock'}"
    with dask.worker("waiting", *preload, environment={"MRELEASE_AGENT": address}), dask.client() as client:
        workers = wait_workers(client, "waiting")
        with overdone(client, workers["waiting"], hanging) as case:
            lab.until(lambda: f"the memory of worker process {case.stuck.pid}" in dask.log("waiting"), "the nanny has warned")
            assert case.stuck.held_bytes() >= HANGING
            with running_agent(tmp_path / "run") as agent:
                assert agent.address == address
                lab.until(lambda: case.stuck.held_bytes() < NOTHING, "the agent was asked again")


def test_a_worker_that_is_restarted_is_no_reason_for_a_warning(dask: Cluster, plugin_agent: Agent) -> None:
    preload = ("--preload-nanny", "mrelease.integrations.dask")
    with dask.worker("well", *preload, environment={"MRELEASE_AGENT": plugin_agent.address}), dask.client() as client:
        first = pid_of(client, wait_workers(client, "well")["well"])
        client.restart_workers(["well"], timeout=60)
        lab.until(lambda: pid_of_next(client, "well") not in (0, first), "the nanny starts the next worker")
        # The next one is followed, too.
        assert client.submit(os.getpid, pure=False).result(60) == pid_of_next(client, "well")
        assert "was not released" not in dask.log("well")


def test_who_gets_the_number_of_a_worker_is_not_killed_for_it(dask: Cluster, found: Agent) -> None:
    with dask.worker("gone"), dask.client() as client:
        wait_workers(client, "gone")
        with resolvers.resolve(f"dask://{dask.address}/gone") as (placement,):
            assert isinstance(placement.target, Process)
            pid = placement.target.pid
            pidfd = os.pidfd_open(pid)
            os.kill(pid, 9)
            assert lab.wait_readable(pidfd)
            os.close(pidfd)
            with stand_in(pid) as bystander, placement.client() as node:
                with pytest.raises(IdentityMismatch):
                    node.kill_and_release(placement.target, node=placement.expected)
                assert bystander.poll() is None


def test_a_worker_that_hangs_alive_is_found_through_its_nanny(dask: Cluster, found: Agent) -> None:
    with dask.worker("deaf"), dask.client() as client:
        workers = wait_workers(client, "deaf")
        first = pid_of(client, workers["deaf"])
        client.submit(hold_the_interpreter, pure=False)
        (acted,) = resolvers.kill_and_release(f"dask://{dask.address}/{workers['deaf'].partition('://')[2]}")
        assert not isinstance(acted.result, Exception), acted.result
        assert [process.pid for process in acted.result.processes] == [first]
        # Dask's own way goes on from there.
        lab.until(lambda: pid_of_next(client, "deaf") not in (0, first), "the nanny starts the next worker")


@pytest.mark.parametrize(
    "ref",
    [
        "dask://scheduler",
        "dask://scheduler:8786",
        "dask://scheduler/w",
        "dask://sch%20eduler:8786/w",
        "dask://s:8786/w?protocol=ftp",
        "dask://s:8786/w?x=1",
    ],
)
def test_what_is_no_worker_of_a_scheduler_is_refused(ref: str) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: make test-plugins installs it")
    with pytest.raises(InvalidReference), resolvers.resolve(ref):
        pass


def test_the_resolver_conforms(dask: Cluster, found: Agent) -> None:
    from mrelease.resolvers.dask import Dask

    with dask.worker("one"), dask.worker("two"), dask.client() as client:
        wait_workers(client, "one", "two")
        subject = conformance.Subject(Dask, good=f"dask://{dask.address}/one", unknown=f"dask://{dask.address}/three")
        assert [str(finding) for finding in conformance.check(subject) if not finding.passed] == []
        with pytest.raises(ReferenceNotFound, match="it has one, two"), resolvers.resolve(subject.unknown):
            pass
        with resolvers.resolve(f"dask://{dask.address}/*") as placements:
            assert sorted(placement.title for placement in placements) == ["Dask worker one", "Dask worker two"]


def test_schedulers_that_do_not_answer() -> None:
    pytest.importorskip("distributed", reason="Dask is not installed: make test-plugins installs it")
    with conformance.silent_server() as silent:
        for address in ("127.0.0.1:1", silent):
            with pytest.raises(OrchestratorUnavailable), resolvers.resolve(f"dask://{address}/one", deadline=2):
                pass


def pid_of_next(client: Any, name: str) -> int:
    """The pid of the worker of this name, whichever address it has now."""
    found = [address for address, worker in client.scheduler_info(n_workers=-1)["workers"].items() if worker["name"] == name]
    return pid_of(client, found[0]) if len(found) == 1 else 0


@contextlib.contextmanager
def stand_in(pid: int) -> Generator[subprocess.Popen[bytes]]:
    """A process that has this number now. Others on this machine start processes, too, so it may take some."""
    made: list[subprocess.Popen[bytes]] = []

    def has_it() -> bool:
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "infinity"])
        if process.pid == pid:
            made.append(process)
            return True
        process.kill()
        process.wait()
        return False

    lab.until(has_it, f"a process has number {pid}")
    try:
        yield made[0]
    finally:
        made[0].kill()
        made[0].wait()
