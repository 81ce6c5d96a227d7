"""What the way to the agent and back costs, over the killing itself: small victims, one after another."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.statistics_of import percentile
from mrelease.demo.processes import Child
from mrelease.v1 import release_service_pb2, release_service_pb2_grpc, target_pb2

_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class RpcCost:
    """Seconds: of a Health Check, of a KillAndRelease, and of what of the latter was not killing and releasing."""

    calls: int
    check_p50: float
    check_p99: float
    call_p50: float
    call_p99: float
    over_p50: float
    over_p99: float

    def data(self) -> dict[str, float]:
        """As JSON has it."""
        return asdict(self)


def rpc_cost(address: str, calls: int) -> RpcCost:
    """Kill ``calls`` sleeping victims of 1 MiB; before each, check the agent's health on the same channel."""
    checks: list[float] = []
    whole: list[float] = []
    over: list[float] = []
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check: Any = health_pb2_grpc.HealthStub(channel).Check  # pyright: ignore
        kill = release_service_pb2_grpc.ReleaseServiceStub(channel).KillAndRelease
        check(health_pb2.HealthCheckRequest(), timeout=10)
        for _ in range(calls):
            victim = Child("victim", _SIZE, "asleep")
            try:
                victim.go()
                victim.wait_ready("a victim")
                start = time.perf_counter()
                check(health_pb2.HealthCheckRequest(), timeout=10)
                checks.append(time.perf_counter() - start)
                target = target_pb2.Target(process=target_pb2.ProcessTarget(pid=victim.pid))
                request = release_service_pb2.KillAndReleaseRequest(target=target)
                start = time.perf_counter()
                answer = kill(request, timeout=10)
                took = time.perf_counter() - start
            finally:
                victim.end()
            process = answer.result.processes[0]
            whole.append(took)
            over.append(took - process.release_duration.ToTimedelta().total_seconds())
    return RpcCost(
        calls,
        percentile(checks, 0.5),
        percentile(checks, 0.99),
        percentile(whole, 0.5),
        percentile(whole, 0.99),
        percentile(over, 0.5),
        percentile(over, 0.99),
    )
