"""Many callers in one process, by grpc.aio. usage: caller_program echo|check|kill ADDRESS COUNT; arguments of the calls on stdin.

A process of its own: an exception that a signal raises in the middle of gRPC's callbacks would corrupt its memory.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.echo_server import METHOD
from mrelease.v1 import outcome_pb2, release_service_pb2, release_service_pb2_grpc, target_pb2

_GOOD = (outcome_pb2.VERDICT_RELEASED, outcome_pb2.VERDICT_EXITED)
_SECONDS = 60


def _echo(channel: grpc.aio.Channel) -> Callable[[int], Awaitable[None]]:
    call: Any = channel.unary_unary(METHOD)  # pyright: ignore[reportUnknownVariableType]

    async def echo(pid: int) -> None:
        await call(_request(pid).SerializeToString(), timeout=_SECONDS)

    return echo


def _check(channel: grpc.aio.Channel) -> Callable[[int], Awaitable[None]]:
    call: Any = health_pb2_grpc.HealthStub(channel).Check  # pyright: ignore

    async def check(_: int) -> None:
        await call(health_pb2.HealthCheckRequest(), timeout=_SECONDS)

    return check


def _kill(channel: grpc.aio.Channel) -> Callable[[int], Awaitable[None]]:
    call: Any = release_service_pb2_grpc.ReleaseServiceStub(channel).KillAndRelease

    async def kill(pid: int) -> None:
        answer = await call(_request(pid), timeout=_SECONDS)
        if answer.result.verdict not in _GOOD:
            raise RuntimeError(f"a victim of 1 MiB: {answer.result}")

    return kill


def _request(pid: int) -> release_service_pb2.KillAndReleaseRequest:
    return release_service_pb2.KillAndReleaseRequest(target=target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid)))


async def _rate(kind: str, address: str, count: int, arguments: list[int]) -> float:
    """Calls a second of ``count`` callers, each with the next argument as soon as its last call has been answered."""
    make = {"echo": _echo, "check": _check, "kill": _kill}[kind]
    async with grpc.aio.insecure_channel(address) as channel:
        call = make(channel)
        left: Iterator[int] = iter(arguments)

        async def caller() -> None:
            for argument in left:
                await call(argument)

        await call(next(left))  # the channel connects
        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(count)))
        return (len(arguments) - 1) / (time.perf_counter() - start)


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C is for the bench alone
    print(asyncio.run(_rate(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(word) for word in sys.stdin.readline().split()])))
