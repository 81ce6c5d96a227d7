"""What the way to the agent and back costs, over the killing itself: small victims, one after another."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.programs import Programs, running
from bench.results import Latency, RpcCost, Run
from bench.statistics_of import percentile
from mrelease.v1 import outcome_pb2, release_service_pb2, release_service_pb2_grpc, target_pb2

_SIZE = 1 << 20
#: The first calls on a channel are slower: they connect.
_WARM_UP = 20
_GOOD = (outcome_pb2.VERDICT_RELEASED, outcome_pb2.VERDICT_EXITED)


def rpc_cost(run: Run, programs: Programs, unix: str, tcp: str, calls: int) -> RpcCost:
    """Kill ``calls`` sleeping victims of 1 MiB by each address, and check the agent's health as often on the same channel.

    The first call after a victim was started is slower than the next, whichever it is: they take turns. Raises RuntimeError for a verdict
    other than RELEASED and EXITED.
    """
    return RpcCost(run, *_measure(programs, unix, calls), *_measure(programs, tcp, calls))


def latency(seconds: Sequence[float]) -> Latency:
    """Summarize."""
    return Latency(len(seconds), percentile(seconds, 0.5), percentile(seconds, 0.99))


def _measure(programs: Programs, address: str, calls: int) -> tuple[Latency, Latency, Latency]:
    checks: list[float] = []
    whole: list[float] = []
    over: list[float] = []
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check: Any = health_pb2_grpc.HealthStub(channel).Check  # pyright: ignore
        kill = release_service_pb2_grpc.ReleaseServiceStub(channel).KillAndRelease

        def measure_check() -> None:
            start = time.perf_counter()
            check(health_pb2.HealthCheckRequest(), timeout=10)
            checks.append(time.perf_counter() - start)

        def measure_kill(pid: int) -> None:
            target = target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid))
            request = release_service_pb2.KillAndReleaseRequest(target=target)
            start = time.perf_counter()
            result = kill(request, timeout=10).result
            took = time.perf_counter() - start
            if result.verdict not in _GOOD:
                raise RuntimeError(f"a victim of 1 MiB: {result}")
            whole.append(took)
            over.append(took - result.processes[0].release_duration.ToTimedelta().total_seconds())

        for number in range(_WARM_UP + calls):
            with running([programs.victim, "-p", os.getpid(), "hold", _SIZE]) as victim:
                victim.hear()
                if number % 2:
                    measure_kill(victim.pid)
                measure_check()
                if not number % 2:
                    measure_kill(victim.pid)
    return latency(checks[_WARM_UP:]), latency(whole[_WARM_UP:]), latency(over[_WARM_UP:])
