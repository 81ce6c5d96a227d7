"""What type checkers must see of the SDK. Run by mypy --strict and pyright, never executed."""

from __future__ import annotations

from datetime import datetime, timedelta

from typing_extensions import assert_type

import mrelease
from mrelease import errors


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
    client.list_processes(within=mrelease.Process(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.kill_and_release(4711)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.kill_and_release(mrelease.Process(1), "n7")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    client.kill_and_release(mrelease.Process(1), wait="exited")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    client.release(mrelease.Process(1), reap_delay=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def asynchronous() -> None:
    async with mrelease.AsyncClient() as client:
        assert_type(client, mrelease.AsyncClient)
        assert_type(await client.kill_and_release(mrelease.Process(1), node=mrelease.NodeRef("n7")), mrelease.ReleaseResult)
        assert_type(await client.release(mrelease.Process(1)), mrelease.ReleaseResult)
        assert_type(await client.get_node(), mrelease.Node)
        assert_type(await client.list_processes(within=mrelease.Container("0123456789ab")), mrelease.ProcessList)


def results(result: mrelease.ReleaseResult, node: mrelease.Node, target: mrelease.Target) -> None:
    assert_type(result.verdict, mrelease.Verdict)
    assert_type(result.released_bytes, int)
    assert_type(result.is_released, bool)
    assert_type(target, mrelease.Process | mrelease.Container | mrelease.Pod | mrelease.Cgroup)
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
