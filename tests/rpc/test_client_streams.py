"""Both clients and an answer that is a stream, from a scripted agent: what they ask, how it ends, and who ends it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest

import mrelease
from mrelease import _calls, _failure, _status, _streaming, errors
from mrelease._address import parse
from mrelease._channel import Channels
from mrelease.v1 import memory_pb2, node_service_pb2, release_service_pb2
from support.sdk_fake_agent import Fail, FakeAgent, Stream, agent_that_hangs_up, fake_agent
from support.sdk_samples import full_message

SAMPLE = full_message(node_service_pb2.WatchMemoryResponse)
PATIENCE = 30.0
#: Calls ``watch_memory`` and returns the first samples, at most so many.
Watch = Callable[..., list[mrelease.MemorySample]]


def watch_sync(address: str, most: int = 100, **options: Any) -> list[mrelease.MemorySample]:
    with mrelease.Client(address) as client:
        samples = client.watch_memory(**options)
        try:
            return list(itertools.islice(samples, most))
        finally:
            samples.close()


def watch_async(address: str, most: int = 100, **options: Any) -> list[mrelease.MemorySample]:
    async def run() -> list[mrelease.MemorySample]:
        found: list[mrelease.MemorySample] = []
        async with mrelease.AsyncClient(address) as client:
            samples = client.watch_memory(**options)
            try:
                async for sample in samples:
                    found.append(sample)
                    if len(found) == most:
                        break
            finally:
                await samples.aclose()
        return found

    return asyncio.run(run())


@pytest.fixture(params=[watch_sync, watch_async], ids=["Client", "AsyncClient"])
def watch(request: pytest.FixtureRequest) -> Watch:
    found: Watch = request.param
    return found


@pytest.fixture
def fake(tmp_path: Path) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as fake:
        fake.script_stream("WatchMemory", Stream([SAMPLE, SAMPLE]))
        try:
            yield fake
        finally:
            fake.left.set()


def test_a_stream_is_asked_for_and_every_field_of_it_arrives(fake: FakeAgent, watch: Watch) -> None:
    trigger = mrelease.PressureTrigger(mrelease.PressureKind.FULL, stall=timedelta(milliseconds=150), window=2)
    found = watch(fake.address, interval=0.25, within=mrelease.Cgroup("/a"), trigger=trigger, timeout=7)
    assert len(found) == 2
    (seen,) = fake.seen
    asked = seen.request
    assert (asked.interval.ToMilliseconds(), asked.within.cgroup.path) == (250, "/a")
    assert (asked.trigger.kind, asked.trigger.stall.ToMilliseconds(), asked.trigger.window.seconds) == (
        memory_pb2.PRESSURE_KIND_FULL,
        150,
        2,
    )
    assert 0 < seen.seconds_left < 8
    sample = found[0]
    assert sample.sample_time == datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)
    assert sample.memory.available_bytes == SAMPLE.memory.available_bytes
    assert sample.pressure is not None
    assert sample.pressure.full == mrelease.PressureStall(
        SAMPLE.pressure.full.avg10_percent,
        SAMPLE.pressure.full.avg60_percent,
        SAMPLE.pressure.full.avg300_percent,
        timedelta(seconds=1.25),
    )
    assert sample.cgroup is not None
    assert (sample.cgroup.path, sample.cgroup.usage_bytes) == (SAMPLE.cgroup.path, SAMPLE.cgroup.usage_bytes)
    assert (sample.cgroup.limit_bytes, sample.triggered) == (SAMPLE.cgroup.limit_bytes, True)
    assert sample.node == mrelease.NodeRef(SAMPLE.node.name, SAMPLE.node.boot_id)


def test_what_is_not_asked_for_is_not_sent_and_what_is_absent_is_none(fake: FakeAgent, watch: Watch) -> None:
    fake.script_stream("WatchMemory", Stream([node_service_pb2.WatchMemoryResponse()]))
    (sample,) = watch(fake.address)
    (seen,) = fake.seen
    assert not seen.request.ListFields()
    assert seen.seconds_left > 10_000_000  # no deadline
    assert (sample.pressure, sample.cgroup, sample.triggered, sample.node) == (None, None, False, None)


def test_a_stream_that_is_closed_is_cancelled_at_the_agent(fake: FakeAgent, watch: Watch) -> None:
    fake.script_stream("WatchMemory", Stream([SAMPLE, SAMPLE], ends=False))
    assert len(watch(fake.address, 2)) == 2
    assert fake.left.wait(PATIENCE)


def test_a_stream_that_is_forgotten_is_cancelled_too(fake: FakeAgent) -> None:
    fake.script_stream("WatchMemory", Stream([SAMPLE], ends=False))
    with mrelease.Client(fake.address) as client:
        for _ in client.watch_memory():
            break
        assert fake.left.wait(PATIENCE)


async def test_a_task_that_is_cancelled_ends_its_stream(fake: FakeAgent) -> None:
    fake.script_stream("WatchMemory", Stream([SAMPLE], ends=False))
    got = asyncio.Event()

    async def follow(client: mrelease.AsyncClient) -> None:
        async for _ in client.watch_memory():
            got.set()

    async with mrelease.AsyncClient(fake.address) as client:
        task = asyncio.create_task(follow(client))
        await asyncio.wait_for(got.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(fake.left.wait, PATIENCE)


def test_a_client_that_is_closed_by_another_thread_ends_the_stream(fake: FakeAgent) -> None:
    fake.script_stream("WatchMemory", Stream([SAMPLE], ends=False))
    client = mrelease.Client(fake.address)
    samples = client.watch_memory()
    next(samples)
    closer = threading.Thread(target=client.close)
    closer.start()
    with pytest.raises(errors.Cancelled):
        next(samples)
    closer.join()
    with pytest.raises(RuntimeError, match="closed"):
        client.watch_memory()


@pytest.mark.parametrize("before", [0, 1], ids=["at once", "after a message"])
@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK], ids=lambda c: c.name)
def test_every_status_arrives_as_its_class(fake: FakeAgent, watch: Watch, code: grpc.StatusCode, before: int) -> None:
    fake.script_stream("WatchMemory", Stream([*[SAMPLE] * before, Fail(code)]))
    with pytest.raises(_failure.BY_CODE[code]) as caught:
        watch(fake.address)
    assert caught.value.code is code
    assert caught.value.nothing_signalled
    assert fake.count("WatchMemory") == 1


def test_a_reason_arrives_with_its_details(fake: FakeAgent, watch: Watch) -> None:
    details = _status.ErrorDetails("AGENT_LIMIT", {"limit": "max_watchers", "remedy": "come again"}, retry_after=1.0)
    fake.script_stream("WatchMemory", Stream([SAMPLE, Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)]))
    with pytest.raises(errors.AgentLimit, match="come again") as caught:
        watch(fake.address)
    assert caught.value.metadata["limit"] == "max_watchers"
    assert caught.value.retry_after == timedelta(seconds=1)


@pytest.mark.parametrize(("before", "harmless"), [(0, True), (1, False)], ids=["at once", "after a message"])
def test_a_refusal_in_the_middle_of_a_stream_that_kills_proves_nothing(fake: FakeAgent, before: int, harmless: bool) -> None:
    progress = full_message(release_service_pb2.ReclaimResponse)
    details = _status.ErrorDetails("AGENT_LIMIT", {"remedy": "come again"})
    fake.script_stream("Reclaim", Stream([*[progress] * before, Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)]))
    call = _calls.StreamCall(
        path="/mrelease.v1.ReleaseService/Reclaim",
        request=release_service_pb2.ReclaimRequest(),
        response=release_service_pb2.ReclaimResponse,
        decode=lambda message: message,
        deadline=None,
        signals=True,
    )
    address = parse(fake.address)
    channels = Channels[grpc.Channel](address, grpc.insecure_channel, grpc.secure_channel, lambda old: old.close())
    with pytest.raises(errors.AgentLimit) as caught:
        list(_streaming.iterate(call, channels, address))
    for channel in channels.all():
        channel.close()
    assert caught.value.nothing_signalled is harmless


def test_an_older_agent_does_not_know_the_method(fake: FakeAgent, watch: Watch) -> None:
    fake.streams.clear()
    with pytest.raises(errors.UnknownMethod):
        watch(fake.address)


def test_a_deadline_says_whether_anything_had_come(fake: FakeAgent, watch: Watch) -> None:
    fake.script_stream("WatchMemory", Stream([SAMPLE], ends=False))
    with pytest.raises(errors.DeadlineExceeded, match="no answer"):
        watch(fake.address, timeout=-1)
    said = ""
    for timeout in (0.2, 2, 20):  # the first that is long enough for a message
        with pytest.raises(errors.DeadlineExceeded) as caught:
            watch(fake.address, timeout=timeout)
        said = caught.value.message
        if not said.startswith("no answer"):
            break
    assert said == f"the deadline ended the stream from {fake.address}"


def test_no_agent_and_a_lost_one(tmp_path: Path, watch: Watch) -> None:
    with pytest.raises(errors.Unreachable, match="there is no socket"):
        watch(f"unix://{tmp_path}/none.sock")
    with agent_that_hangs_up(tmp_path) as address, pytest.raises(errors.ConnectionLost, match="make it again"):
        watch(address)


def test_values_that_no_duration_holds_are_refused_before_the_call(fake: FakeAgent) -> None:
    with mrelease.Client(fake.address) as client:
        for options in ({"interval": float("nan")}, {"timeout": float("inf")}, {"trigger": mrelease.PressureTrigger(stall=1e300)}):
            with pytest.raises(ValueError, match="must be a timedelta or a number of seconds"):
                client.watch_memory(**options)  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match="a target is"):
            client.watch_memory(within="/a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert fake.seen == []


def test_samples_print_as_one_line() -> None:
    stall = mrelease.PressureStall(1.5, 0.25, 0.0, timedelta(seconds=3))
    pressure = mrelease.MemoryPressure(stall, stall)
    sample = mrelease.MemorySample(
        sample_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        memory=mrelease.NodeMemory(8 << 30, 1 << 30, 2 << 30, 0, 0),
        pressure=pressure,
        cgroup=mrelease.WatchedCgroup("/a\x1b", 1 << 30, 4 << 30, None),
        triggered=True,
        node=None,
    )
    assert str(sample) == "03:04:05 2.00 of 8.00 GiB available; some 1.50 %, full 1.50 % of 10 s; /a\\x1b: 1.00 of 4.00 GiB; triggered"
    assert str(stall) == "1.50 % of 10 s, 0.25 % of 60 s, 0.00 % of 300 s"
    assert str(mrelease.WatchedCgroup("/a", 1 << 30, None, pressure)) == "/a: 1.00 GiB, some 1.50 %, full 1.50 % of 10 s"
    assert str(mrelease.PressureTrigger(stall=0.15, window=timedelta(seconds=2))) == "SOME 150 ms in 2.00 s"
