"""What type checkers must see of the SDK. Run by mypy --strict and pyright, never executed."""

from __future__ import annotations

from datetime import datetime, timedelta

from typing_extensions import assert_type

import mrelease
from mrelease import errors
from mrelease.resolvers import Placement


def blocking(client: mrelease.Client) -> None:
    with mrelease.Client("unix:///run/mrelease/agent.sock", timeout=timedelta(seconds=3)) as node:
        assert_type(node, mrelease.Client)
    assert_type(client.kill_and_release(mrelease.Process(1)), mrelease.ReleaseResult)
    assert_type(client.release(mrelease.Process(1, pidfd_inode=2), wait=mrelease.Wait.EXITED, timeout=0.5), mrelease.ReleaseResult)
    assert_type(client.get_node(), mrelease.Node)
    assert_type(client.list_processes(limit=None, uid=0), mrelease.ProcessList)
    assert_type([p.target for p in client.list_processes()], list[mrelease.Process])
    assert_type(client.kill_and_release(mrelease.Container("0123456789ab")), mrelease.ReleaseResult)
    assert_type(client.release(mrelease.Pod("uid", containers=("0123456789ab",))), mrelease.ReleaseResult)
    assert_type(client.list_processes(within=mrelease.Cgroup("/a")), mrelease.ProcessList)
    assert_type([p.qos for p in client.list_processes(within=mrelease.Pod("uid"))], list[mrelease.QosClass])
    trigger = mrelease.PressureTrigger(mrelease.PressureKind.FULL, stall=timedelta(milliseconds=150), window=2)
    samples = client.watch_memory(interval=0.5, within=mrelease.Cgroup("/a"), trigger=trigger, timeout=None)
    assert_type([sample.triggered for sample in samples], list[bool])
    samples.close()
    client.watch_memory(within=mrelease.Pod("uid"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.watch_memory(trigger="some 150000 2000000")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.list_processes(within=mrelease.Process(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.kill_and_release(4711)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.kill_and_release(mrelease.Process(1), "n7")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    client.kill_and_release(mrelease.Process(1), wait="exited")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.release(mrelease.Process(1), reap_delay=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def operations(client: mrelease.Client) -> None:
    killed = client.kill_and_release(
        mrelease.Process(1), request_id="job-1", grace_period=timedelta(seconds=3), signal="SIGINT", boost=mrelease.Boost.NONE
    )
    assert_type(killed.replayed, bool)
    client.release(mrelease.Process(1), request_id="job-1", boost=mrelease.Boost.LIFT)
    client.release(mrelease.Process(1), grace_period=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    news = client.watch_release("job-1", interval=0.5, timeout=None)
    assert_type(list(news), list[mrelease.ReleaseProgress | mrelease.ReleaseResult])
    news.close()
    events = client.reclaim([mrelease.Process(1), mrelease.Pod("uid")], released_bytes=1 << 30, validate_only=True)
    for event in events:
        match event:
            case mrelease.ReclaimStarted():
                assert_type(event.missing, int)
            case mrelease.ReclaimedCandidate():
                assert_type(event.result, mrelease.ReleaseResult | None)
                assert_type(event.passed_over, mrelease.PassedOver | None)
            case _:
                assert_type(event, mrelease.ReclaimSummary)
    client.reclaim([], pressure_below=mrelease.PressureGoal(10.0, mrelease.PressureKind.FULL))
    client.reclaim([mrelease.Process(1)], released_bytes="1GiB")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.reclaim([4711], released_bytes=1)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def operations_asynchronous(client: mrelease.AsyncClient) -> None:
    async for news in client.watch_release("job-1"):
        assert_type(news, mrelease.ReleaseProgress | mrelease.ReleaseResult)
    async for event in client.reclaim([mrelease.Process(1)], available_bytes=1 << 30, deadline=60):
        assert_type(event, mrelease.ReclaimStarted | mrelease.ReclaimedCandidate | mrelease.ReclaimSummary)


async def asynchronous() -> None:
    async with mrelease.AsyncClient() as client:
        assert_type(client, mrelease.AsyncClient)
        assert_type(await client.kill_and_release(mrelease.Process(1), node=mrelease.NodeRef("n7")), mrelease.ReleaseResult)
        assert_type(await client.release(mrelease.Process(1)), mrelease.ReleaseResult)
        assert_type(await client.get_node(), mrelease.Node)
        assert_type(await client.list_processes(within=mrelease.Container("0123456789ab")), mrelease.ProcessList)
        samples = client.watch_memory(within=mrelease.Container("0123456789ab"))
        async for sample in samples:
            assert_type(sample, mrelease.MemorySample)
        await samples.aclose()


def fleets(placement: Placement) -> None:
    with mrelease.Fleet(["n7:7443", mrelease.Member("n8", "n8:7443", node=mrelease.NodeRef("n8")), placement], concurrency=8) as fleet:
        assert_type(fleet, mrelease.Fleet)
        for node in fleet.get_node(deadline=timedelta(seconds=5)):
            assert_type(node, mrelease.FleetAnswer[mrelease.Node])
            assert_type(node.result, mrelease.Node | mrelease.MreleaseError)
            assert_type(node.error, mrelease.MreleaseError | None)
        named = mrelease.FleetRequest("n8", mrelease.Pod("uid"), request_id="job-1")
        for answer in fleet.kill_and_release([("n8", mrelease.Process(1)), placement, named], reason="preempted", deadline=30):
            assert_type(answer.value(), mrelease.ReleaseResult)
            assert_type(answer.member.name, str)
        assert_type([answer.value().processes for answer in fleet.list_processes(limit=1)], list[tuple[mrelease.ProcessInfo, ...]])
        fleet.kill_and_release([mrelease.Process(1)])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
        fleet.release([("n8", mrelease.Process(1))], grace_period=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def fleets_asynchronous(fleet: mrelease.AsyncFleet) -> None:
    async def work(client: mrelease.AsyncClient, member: mrelease.Member) -> int:
        return len(await client.list_processes()) + len(member.name)

    async for answer in fleet.each(work, timeout=5):
        assert_type(answer, mrelease.FleetAnswer[int])
    async with mrelease.AsyncFleet() as empty:
        async for released in empty.release([("n8", mrelease.Cgroup("/a"))], validate_only=True):
            assert_type(released.result, mrelease.ReleaseResult | mrelease.MreleaseError)


def watched(sample: mrelease.MemorySample) -> None:
    assert_type(sample.pressure, mrelease.MemoryPressure | None)
    assert_type(sample.cgroup, mrelease.WatchedCgroup | None)
    assert_type(sample.node, mrelease.NodeRef | None)
    if sample.pressure and sample.cgroup:
        assert_type(sample.pressure.some.avg10_percent, float)
        assert_type(sample.pressure.full.total_duration, timedelta)
        assert_type(sample.cgroup.limit_bytes, int | None)


def results(result: mrelease.ReleaseResult, node: mrelease.Node, target: mrelease.Target) -> None:
    assert_type(result.verdict, mrelease.Verdict)
    assert_type(result.released_bytes, int)
    assert_type(result.is_released, bool)
    assert_type(target, mrelease.Process | mrelease.Container | mrelease.Pod | mrelease.Cgroup | mrelease.Custom)
    assert_type(result.cgroups, tuple[mrelease.CgroupMemory, ...])
    assert_type(result.unreleased, tuple[mrelease.Unreleased, ...])
    for process in result.processes:
        assert_type(process.outcome, mrelease.Outcome)
        assert_type(process.release_duration, timedelta | None)
        assert_type(process.kill_time, datetime | None)
        assert_type(process.memory_before, mrelease.ProcessMemory | None)
        assert_type(process.sharing_pids, tuple[int, ...])
    assert_type(node.can(mrelease.Feature.PIDFD_INODE), bool)
    result.verdict = mrelease.Verdict.HELD  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        result.raise_unless_released()
    except mrelease.NotReleased as held:
        assert_type(held.result, mrelease.ReleaseResult)
    except errors.Unavailable as error:
        assert_type(error.retry_after, timedelta | None)
        assert_type(error.nothing_signalled, bool)
        assert_type(error.metadata, dict[str, str])
