"""Whether the agent goes on answering while reaps are stuck in the kernel: Health Checks before and meanwhile."""

from __future__ import annotations

import contextlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import SkipTest

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.agents import BenchAgent, bench_agent
from bench.results import Latency, Run, Stuck
from bench.rounds import Whole
from bench.rpc_cost import latency
from mrelease.v1 import release_service_pb2, release_service_pb2_grpc, target_pb2

#: Where idle threads wait: locks, epoll and poll, sleeps.
_USUAL = ("futex", "poll", "nanosleep", "hrtimer")
_PATIENCE = 60.0
_SIZE = 1 << 20
_WARM_UP = 20


def stuck(run: Run, reaps: int, checks: int) -> Stuck:
    """Kill ``reaps`` victims whose mmap_lock is held for writing, so that what the agent asks the kernel about them does not return.

    An agent of its own: its threads end with it.
    """
    from support.lab import mmap_locked

    try:
        with ExitStack() as stack:
            agent = stack.enter_context(bench_agent())
            channel = stack.enter_context(grpc.insecure_channel(agent.address, [("grpc.use_local_subchannel_pool", 1)]))
            victims = [stack.enter_context(Whole(mmap_locked(_SIZE))) for _ in range(reaps)]
            idle = _checks(channel, checks)
            kill = release_service_pb2_grpc.ReleaseServiceStub(channel).KillAndRelease
            calls: list[Any] = [kill.future(_request(victim.pid), timeout=2 * _PATIENCE) for victim in victims]
            stack.callback(lambda: [call.cancel() for call in calls])
            _await_stuck(agent, reaps)
            return Stuck(run, _count(agent), idle, _checks(channel, checks))
    except SkipTest as why:
        return Stuck(run, skipped=str(why))


def _checks(channel: grpc.Channel, count: int) -> Latency:
    check: Any = health_pb2_grpc.HealthStub(channel).Check  # pyright: ignore
    took: list[float] = []
    for _ in range(_WARM_UP + count):
        start = time.perf_counter()
        check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        took.append(time.perf_counter() - start)
    return latency(took[_WARM_UP:])


def _request(pid: int) -> release_service_pb2.KillAndReleaseRequest:
    request = release_service_pb2.KillAndReleaseRequest(target=target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid)))
    request.timeout.FromSeconds(int(2 * _PATIENCE))
    return request


def _await_stuck(agent: BenchAgent, reaps: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while _count(agent) < reaps:
        if time.monotonic() > deadline:
            raise SkipTest(f"{_count(agent)} of {reaps} reaps are stuck after {_PATIENCE:g} s")
        time.sleep(0.1)


def _count(agent: BenchAgent) -> int:
    """Threads of the agent that the kernel holds: they wait neither for each other nor for descriptors, proc_pid_wchan(5)."""
    found = 0
    for thread in Path(f"/proc/{agent.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            where = (thread / "wchan").read_text()
            found += where not in ("", "0") and not any(usual in where for usual in _USUAL)
    return found
