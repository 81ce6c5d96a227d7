"""A caller watches a node's memory: at an interval, on real memory pressure, of a cgroup too; and what ends a watch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
import struct
import uuid
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

from mrelease import (
    AsyncClient,
    Cgroup,
    Client,
    Container,
    Feature,
    MemorySample,
    PressureKind,
    PressureTrigger,
    errors,
)
from support import lab
from support.agent import Agent, running_agent
from support.lab.cgroups import cgroup_below, in_hierarchy
from support.raw import WATCH_MEMORY, field

SIZE = 32 * lab.MIB


#: Seconds after which a watch that should have ended long ago fails its test.
LONG = 100.0


EAGER = PressureTrigger(stall=0.01, window=timedelta(seconds=2))


PRESSURE = Path("/proc/pressure/memory")


NANO = 1_000_000_000


needs_pressure = pytest.mark.skipif(not PRESSURE.exists(), reason="the kernel does not measure memory pressure (PSI)")


def stalled() -> int:
    """Microseconds that tasks of the node stalled for memory since boot."""
    return int(PRESSURE.read_text().splitlines()[0].rpartition("=")[2])


def duration(number: int, seconds: int, nanos: int = 0) -> bytes:
    return field(number, field(1, seconds) + field(2, nanos))


@contextlib.contextmanager
def watching(client: Client, **options: object) -> Generator[Generator[MemorySample, None, None]]:
    """A watch that is closed at the end."""
    with contextlib.closing(client.watch_memory(timeout=LONG, **options)) as samples:  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        yield samples


def test_the_node_is_measured_at_an_interval(agent: Agent, node: Client) -> None:
    before = stalled() if PRESSURE.exists() else 0
    with watching(node, interval=timedelta(milliseconds=100)) as samples:
        first, *more = itertools.islice(samples, 4)
    after = stalled() if PRESSURE.exists() else 0
    assert first.node == node.get_node().identity
    assert [sample.node for sample in more] == [None] * 3
    times = [sample.sample_time for sample in (first, *more)]
    assert times == sorted(set(times))
    for sample in (first, *more):
        assert sample.memory.total_bytes == lab.meminfo("MemTotal")
        assert 0 < sample.memory.available_bytes < sample.memory.total_bytes
        assert (sample.cgroup, sample.triggered) == (None, False)
        if PRESSURE.exists():
            assert sample.pressure is not None
            some, full = sample.pressure.some, sample.pressure.full
            assert before <= some.total_duration / timedelta(microseconds=1) <= after
            assert full.total_duration <= some.total_duration
            assert 0 <= full.avg10_percent <= 100
    assert agent.process.poll() is None


async def test_asyncio_watches_too(agent: Agent) -> None:
    async with AsyncClient(agent.address) as client:
        samples = client.watch_memory(interval=0.1)
        assert (await anext(samples)).node is not None
        assert (await anext(samples)).node is None
        await samples.aclose()
        waiting = asyncio.ensure_future(anext(client.watch_memory(interval=3600, within=Cgroup("/no/such"))))
        with pytest.raises(errors.TargetNotFound):
            await waiting


@needs_pressure
def test_a_trigger_fires_when_tasks_stall(node: Client) -> None:
    """Real stalls, and no others of that size: whoever waits hears at once, and without them nothing comes but the first sample."""
    with watching(node, trigger=EAGER) as samples:
        first = next(samples)
        assert not first.triggered
        assert first.pressure is not None
        with lab.thrashing():
            fired = next(samples)
    assert fired.triggered
    assert fired.pressure is not None
    # Not by how much: for triggers the kernel counts apart from what it shows (kernel/sched/psi.c, PSI_POLL and PSI_AVGS).
    assert fired.pressure.some.total_duration >= first.pressure.some.total_duration


@needs_pressure
def test_a_trigger_and_an_interval_go_together(node: Client) -> None:
    with watching(node, trigger=EAGER, interval=0.1) as samples:
        assert [sample.triggered for sample in itertools.islice(samples, 3)] == [False] * 3
        with lab.thrashing():
            assert any(sample.triggered for sample in samples)
        assert not all(sample.triggered for sample in itertools.islice(samples, 3))


@needs_pressure
@pytest.mark.parametrize("window", [0.5, 1.999, 2, 9.999999, 10])
@pytest.mark.parametrize("kind", list(PressureKind))
def test_windows_that_only_a_privileged_agent_may_set_are_rounded_up(node: Client, kind: PressureKind, window: float) -> None:
    for stall in (1e-6, window):
        with watching(node, trigger=PressureTrigger(kind, stall, window)) as samples:
            assert not next(samples).triggered


def test_a_cgroup_is_watched_with_the_node(node: Client) -> None:
    with lab.memory_cgroup() as group, lab.live(SIZE, within=[group]):
        path = in_hierarchy(group)
        with watching(node, interval=0.1, within=Cgroup(path)) as samples:
            watched = next(samples).cgroup
            assert watched is not None
            assert (watched.path, watched.limit_bytes) == (path, None)
            assert SIZE <= watched.usage_bytes <= SIZE + 64 * lab.MIB
            # cgroup v1 measures no pressure of a cgroup.
            assert (watched.pressure is None) is (group.version == 1)
            group.write("memory.max" if group.version == 2 else "memory.limit_in_bytes", str(4 * SIZE))
            limits = (sample.cgroup.limit_bytes for sample in samples if sample.cgroup)
            assert next(limit for limit in limits if limit is not None) == 4 * SIZE


def test_a_container_is_watched_by_its_id(node: Client) -> None:
    container = secrets.token_hex(32)
    with (
        lab.memory_cgroup() as parent,
        cgroup_below(parent, f"kubepods/besteffort/pod{uuid.uuid4()}/{container}") as group,
        lab.live(SIZE, within=[group]),
        watching(node, within=Container(container)) as samples,
    ):
        watched = next(samples).cgroup
        assert watched is not None
        assert watched.path == in_hierarchy(group)
        assert watched.usage_bytes >= SIZE * 0.98


def test_a_cgroup_that_is_removed_ends_the_watch(node: Client) -> None:
    with contextlib.ExitStack() as stack:
        with lab.memory_cgroup() as group:
            samples = stack.enter_context(watching(node, interval=0.1, within=Cgroup(in_hierarchy(group))))
            assert next(samples).cgroup is not None
        with pytest.raises(errors.TargetNotFound, match="removed") as caught:
            for _ in samples:
                pass
    assert caught.value.metadata["field"] == "within"
    assert caught.value.nothing_signalled


@needs_pressure
def test_a_trigger_of_a_cgroup_needs_v2(node: Client) -> None:
    with lab.memory_cgroup() as group:
        path = in_hierarchy(group)
        with contextlib.ExitStack() as stack:
            samples = stack.enter_context(watching(node, within=Cgroup(path), trigger=EAGER))
            if group.version == 1:
                with pytest.raises(errors.FeatureUnavailable, match="cgroup v1") as caught:
                    next(samples)
                assert caught.value.metadata["feature"] == "FEATURE_MEMORY_PRESSURE"
                assert "without within" in caught.value.remedy
                return
            assert next(samples).cgroup is not None
            with lab.thrashing(within=[group]):
                assert next(samples).triggered


def hiding(*mounts: str) -> list[str]:
    """Prefix of an agent's command that sees another /proc; root only."""
    lab.need_root("a mount namespace")
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]


@needs_pressure
@pytest.mark.parametrize(("cmdline", "remedy"), [("quiet", "psi=1"), ("quiet psi=0 ro", "without psi=0")], ids=["no PSI", "psi=0"])
def test_without_pressure_the_node_is_watched_all_the_same(run_dir: Path, tmp_path: Path, cmdline: str, remedy: str) -> None:
    (tmp_path / "cmdline").write_text(cmdline)
    prefix = hiding("mount -t tmpfs none /proc/pressure", f"mount --bind '{tmp_path}/cmdline' /proc/cmdline")
    with running_agent(run_dir, prefix=prefix) as agent, agent.client() as client:
        (capability,) = (c for c in client.get_node().capabilities if c.feature is Feature.MEMORY_PRESSURE)
        assert not capability.available
        assert remedy in capability.remedy
        with watching(client, interval=0.1) as samples:
            assert [sample.pressure for sample in itertools.islice(samples, 2)] == [None] * 2
        with watching(client, trigger=EAGER) as samples, pytest.raises(errors.FeatureUnavailable) as caught:
            next(samples)
        assert caught.value.remedy == capability.remedy


def fds(agent: Agent) -> int:
    return len(os.listdir(f"/proc/{agent.pid}/fd"))


def test_who_goes_away_makes_room_and_leaves_nothing_open(run_dir: Path) -> None:
    with running_agent(run_dir, "--max-watchers", "1") as agent, agent.client() as client, lab.memory_cgroup() as group:
        client.get_node()
        before = fds(agent)
        options: list[dict[str, object]] = [{}, {"within": Cgroup(in_hierarchy(group))}]
        if PRESSURE.exists():
            options.append({"trigger": EAGER})
        for option in options * 3:
            with begun(client, **option):
                with watching(client) as second, pytest.raises(errors.AgentLimit) as caught:
                    next(second)
                assert caught.value.metadata["limit"] == "max_watchers"
                assert caught.value.retry_after
            # The agent hears of it a moment later.
            lab.until(lambda: fds(agent) == before, "the agent has closed what the watch had open")
        assert "internal error" not in agent.log


@contextlib.contextmanager
def begun(client: Client, **options: object) -> Generator[Generator[MemorySample, None, None]]:
    """A watch that has room: one that was closed a moment ago may still count."""
    with contextlib.ExitStack() as stack:
        found: list[Generator[MemorySample, None, None]] = []

        def begins() -> bool:
            samples = stack.enter_context(watching(client, **options))
            try:
                next(samples)
            except errors.AgentLimit:
                return False
            found.append(samples)
            return True

        lab.until(begins, "there is room for a watch")
        yield found[0]


def admitted(client: Client) -> bool:
    with watching(client) as samples:
        try:
            next(samples)
        except errors.AgentLimit:
            return False
    return True


def test_as_many_as_are_allowed_watch_at_once(agent: Agent) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(agent.client()) for _ in range(8)]
        watches = [stack.enter_context(begun(client, interval=0.1)) for client in clients for _ in range(8)]
        assert all(next(samples).memory for _ in range(2) for samples in watches)
        with watching(clients[0]) as one_more, pytest.raises(errors.AgentLimit):
            next(one_more)
        assert clients[0].get_node().identity.name


@needs_pressure
def test_shutting_down_ends_every_watch_at_once(run_dir: Path) -> None:
    """Also one that waits for pressure, and nobody waits for a caller who does not read: see test_streams.py."""
    with running_agent(run_dir, "--drain-timeout", "1h") as agent, agent.client() as client:
        with watching(client) as slow, watching(client, trigger=EAGER) as waiting, watching(client, interval=3600) as rare:
            for samples in (slow, waiting, rare):
                next(samples)
            agent.process.terminate()
            for samples in (slow, waiting, rare):
                with pytest.raises(errors.ShuttingDown) as caught:
                    next(samples)
                assert caught.value.retry_after
        assert agent.process.wait(LONG) == 0


@contextlib.contextmanager
def deaf(agent: Agent) -> Generator[None]:
    """A caller of WatchMemory who lets the agent send him nothing: HTTP/2 with a flow-control window of 0, RFC 9113 section 6.9."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    fields = {":method": "POST", ":scheme": "http", ":path": WATCH_MEMORY, ":authority": "x"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    # Literals without indexing, RFC 7541 section 6.2.2.
    headers = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())
    request = duration(1, 0, NANO // 10)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(agent.path))
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, struct.pack(">HI", 4, 0))  # SETTINGS_INITIAL_WINDOW_SIZE
            + frame(1, 4, 1, headers)
            + frame(0, 1, 1, b"\0" + struct.pack(">I", len(request)) + request)
        )
        yield


def deaf_watches(agent: Agent, client: Client, stack: contextlib.ExitStack) -> bool:
    """Whether he has the one place for a watcher. Who asks takes it for a moment, and he may have come in that: then another one comes."""
    if any(admitted(client) for _ in range(20)):
        stack.enter_context(deaf(agent))
        return False
    return True


def test_nobody_waits_for_a_caller_who_does_not_read(run_dir: Path) -> None:
    with running_agent(run_dir, "--max-watchers", "1", "--drain-timeout", "1h") as agent, agent.client() as client:
        with contextlib.ExitStack() as stack:
            lab.until(lambda: deaf_watches(agent, client, stack), "he watches")
            assert client.get_node().identity.name
        lab.until(lambda: admitted(client), "he is gone, and there is room again")
        with contextlib.ExitStack() as stack:
            lab.until(lambda: deaf_watches(agent, client, stack), "he watches")
            agent.process.terminate()
            assert agent.process.wait(LONG) == 0
    assert "internal error" not in agent.log


def test_an_agent_that_is_killed_breaks_the_watch(run_dir: Path) -> None:
    with running_agent(run_dir) as agent, agent.client() as client:
        with watching(client, interval=0.1) as samples:
            next(samples)
            agent.process.kill()
            with pytest.raises(errors.ConnectionLost, match="lost") as caught:
                for _ in samples:
                    pass
        assert caught.value.nothing_signalled


def test_a_deadline_ends_the_watch(node: Client) -> None:
    with pytest.raises(errors.DeadlineExceeded) as caught:
        for _ in node.watch_memory(interval=0.1, timeout=0.3):
            pass
    assert caught.value.nothing_signalled
