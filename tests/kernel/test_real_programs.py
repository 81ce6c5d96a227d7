"""What people run, as victims: all their private memory is proven back, and what they share or had stored is as they left it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Cgroup, Client, Outcome, Process, ProcessResult, UnreleasedCause, Verdict, Wait
from support import lab, programs
from support.lab import MIB
from support.postgres import ROWS, TABLE, Cluster, cluster

JAVA_HEAP = 2048 * MIB
REDIS = 1024 * MIB
STRESS_WORKERS, STRESS_SIZE = 2, 512 * MIB
#: What a transaction did that will never end: nothing of it may be there after a recovery.
UNFINISHED = "BEGIN; DELETE FROM ledger WHERE n <= 100; SELECT 'deleted'"

pytestmark = pytest.mark.usefixtures("process_mrelease")


@pytest.fixture(scope="module")
def database() -> Generator[Cluster, None, None]:
    """One cluster for the module: no test that crashes it may take anything from the next."""
    with cluster() as made:
        yield made


def kill(node: Client, pid: int) -> ProcessResult:
    result = node.kill_and_release(Process(pid), wait=Wait.EXITED, timeout=60, reason="a test of real programs")
    (process,) = result.processes
    assert process.outcome in (Outcome.RELEASED, Outcome.EXITED), process
    assert result.verdict.name == process.outcome.name
    assert process.exit_duration is not None
    return process


def cgroup_target(pid: int) -> Cgroup:
    """The group that a process is in, as the memory controller knows it."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    v1 = [path for _, controllers, path in lines if "memory" in controllers.split(",")]
    return Cgroup((v1 or [path for number, _, path in lines if number == "0"])[0])


def shmem(process: ProcessResult) -> int:
    return sum(part.size_bytes for part in process.unreleased if part.cause is UnreleasedCause.SHMEM)


def test_java_gives_its_whole_heap_back(node: Client) -> None:
    with programs.java(JAVA_HEAP) as java:
        killed = kill(node, java.pid)
        assert killed.command == "java"
        assert killed.released_bytes >= JAVA_HEAP * 0.98


def test_redis_gives_its_data_set_back(node: Client) -> None:
    with programs.redis(REDIS) as redis:
        killed = kill(node, redis.pid)
        assert killed.command == "redis-server"
        assert killed.released_bytes >= REDIS * 0.98


def test_stress_ng_in_a_cgroup_cannot_start_its_workers_again(node: Client) -> None:
    """Its parents replace a worker that is killed: the whole group has to go."""
    with lab.memory_cgroup() as group, programs.stress_ng(group, STRESS_WORKERS, STRESS_SIZE) as stress:
        result = node.kill_and_release(cgroup_target(stress.pid), wait=Wait.EXITED, timeout=60)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result
        assert len(result.processes) > STRESS_WORKERS
        assert not group.read("cgroup.procs")
        assert result.released_bytes >= STRESS_SIZE * 0.95
        assert group.usage() < STRESS_SIZE // 10


def test_postgresql_recovers_from_the_death_of_a_backend(node: Client, database: Cluster) -> None:
    """The buffers that it shares with the others are no private memory: they are reported apart, and they stay."""
    with database.server() as postmaster, database.session() as victim:
        before, ready = database.contents(), database.ready()
        backend = int(victim.ask("SELECT pg_backend_pid()"))
        assert int(victim.ask("SELECT count(filler) FROM ledger")) == ROWS
        victim.ask(UNFINISHED)
        killed = kill(node, backend)
        assert shmem(killed) >= TABLE
        assert killed.released_bytes < TABLE
        # The postmaster ends all others, because the dead one may have left the buffers broken, and begins anew.
        database.await_ready(ready + 1, postmaster)
        assert database.contents() == before


def test_postgresql_recovers_from_the_death_of_its_postmaster(node: Client, database: Cluster) -> None:
    with database.server() as postmaster, database.session() as session:
        before = database.contents()
        session.ask(UNFINISHED)
        killed = kill(node, postmaster.pid)
        assert shmem(killed) > 0
    with database.server():
        assert database.contents() == before


def test_postgresql_recovers_from_the_death_of_its_cgroup(node: Client, database: Cluster) -> None:
    with lab.memory_cgroup() as group, database.server(within=group) as postmaster, database.session() as session:
        before = database.contents()
        session.ask(UNFINISHED)
        result = node.kill_and_release(cgroup_target(postmaster.pid), wait=Wait.EXITED, timeout=60)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result
        assert postmaster.pid in {process.pid for process in result.processes}
        assert len(result.processes) > 2
        assert not group.read("cgroup.procs")
        (charge,) = result.cgroups
        # The last one that shared the buffers has gone, and they with it.
        assert charge.before_bytes - charge.after_bytes >= TABLE * 0.98
    with database.server():
        assert database.contents() == before
