"""Composition root: what the agent is made of, and in which order it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from mrelease._version import VERSION
from mrelease.v1 import node_service_pb2_grpc, release_service_pb2_grpc, result_pb2
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.config import Config
from mrelease_agent.guard.gate import Gate
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.own_thread import Refusal, ThreadScheduling, parse_cpus
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.premade import workers
from mrelease_agent.reaping.aid import Aids
from mrelease_agent.reaping.outcome import Boost
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.sharer_search import SharerSearch
from mrelease_agent.reaping.tools import Syscall, Tools
from mrelease_agent.rpc.execution import Execution
from mrelease_agent.rpc.interceptor import Interceptor
from mrelease_agent.rpc.listener import Endpoint, prepare
from mrelease_agent.rpc.node_service import NodeService
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.rpc.release_service import ReleaseService, Settings
from mrelease_agent.rpc.requests import Requests
from mrelease_agent.rpc.watch_memory import Watchers
from mrelease_agent.telemetry import systemd
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics, PrometheusMetrics

_log = logging.getLogger("mrelease")
_SERVICES = ("", "mrelease.v1.ReleaseService", "mrelease.v1.NodeService")
#: A request of the contract is below 4 KiB. gRPC's own limit, 4 MiB, answers without details; ours come first up to that size.
_MAX_REQUEST = 4 * 1024 * 1024 + 64 * 1024
#: Threads for boosts and diagnoses, and as many again where the kernel does not let those go.
_SIDE_THREADS = 2


def raise_file_limit() -> None:
    """Raise RLIMIT_NOFILE to its hard limit: an operation has up to six files open, getrlimit(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(config: Config, capabilities: Capabilities, booster: Booster) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit status. Raises ListenError, OSError where it cannot listen."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(config, capabilities, booster) as endpoint:
        event(_log, logging.INFO, "serving", listen=endpoint.listen, pid=os.getpid(), version=VERSION)
        for found in capabilities:
            if not found.available:
                event(_log, logging.WARNING, "capability off", feature=found.feature.name, why=found.reason, remedy=found.remedy)
        systemd.notify(f"READY=1\nSTATUS=serving on {endpoint.listen}")
        await stop.wait()
        systemd.notify("STOPPING=1")
        event(_log, logging.INFO, "draining")
    return 0


@asynccontextmanager
async def serve(
    config: Config, capabilities: Capabilities, booster: Booster, call: Syscall = process_mrelease
) -> AsyncGenerator[Endpoint, None]:
    """Listen and serve for as long as the context lasts; at its end drain: no new operations, those in flight up to ``drain_timeout``.

    ``booster`` is closed at the end. ``call`` is the seam for what process_mrelease(2) cannot be made to answer.

    Raises ListenError, OSError.
    """
    raise_file_limit()
    linux_node.memory()  # opens what it reads, before descriptors run out

    def tell_cpu(seconds: float) -> None:
        metrics.reaper_cpu(seconds)

    reapers = Reapers(
        config.reaper_threads,
        config.max_stuck_reapers,
        ThreadScheduling(config.reaper_nice, parse_cpus(config.reaper_cpus), config.reaper_class),
        warn=_warn,
        tell_cpu=tell_cpu,
    )
    asyncio.get_running_loop().set_default_executor(workers())
    operations = Operations(config.max_operations)
    watchers = Watchers(config.max_watchers)
    metrics: Metrics = Metrics()
    if config.http_listen:
        metrics = PrometheusMetrics(
            reaper_states=reapers.states,
            operations=lambda: len(operations),
            capabilities={found.feature.name.lower(): found.available for found in capabilities},
            version=VERSION,
        )
    identity = result_pb2.NodeIdentity(name=config.node_name, boot_id=linux_node.boot_id())
    settings = Settings(config.reap_delay, config.default_timeout, config.max_timeout, Boost[config.boost.upper()])
    side = Reapers(_SIDE_THREADS, _SIDE_THREADS)
    aids = Aids(booster, side, metrics.step)
    tools = Tools(
        reapers,
        side,
        can_release=capabilities.has(Feature.PROCESS_MRELEASE),
        call=call,
        tell=metrics.step,
        count_error=metrics.syscall_error,
    )
    gate = Gate()
    execution = Execution(capabilities, tools, aids, metrics, gate)
    requests = Requests(config.result_ttl, config.max_results)
    with contextlib.closing(booster), prepare(config.listen) as endpoint:
        recovered = booster.recover()
        if recovered:
            event(_log, logging.WARNING, "recovered", what=str(recovered))
        server = grpc.aio.server(
            interceptors=[Interceptor(metrics, gate)],
            options=[*endpoint.channel_options, ("grpc.max_receive_message_length", _MAX_REQUEST)],
        )
        release = ReleaseService(identity, settings, capabilities, execution, operations, requests)
        release_service_pb2_grpc.add_ReleaseServiceServicer_to_server(release, server)
        nodes = NodeService(identity, capabilities, watchers, SharerSearch(side), gate)
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
        health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)  # pyright: ignore[reportUnknownMemberType]
        if config.reflection:
            _reflect(server)
        endpoint.bound(server.add_insecure_port(endpoint.grpc_address))
        await server.start()
        for service in _SERVICES:
            await health.set(service, health_pb2.HealthCheckResponse.SERVING)
        try:
            with _http(config, metrics, operations):
                yield endpoint
                watchers.stop()
                await health.enter_graceful_shutdown()
                left = await operations.drain(config.drain_timeout)
                if left:
                    event(_log, logging.WARNING, "gave up draining", operations=left)
        finally:
            # The answers of drained operations are on their way: they get a moment.
            await server.stop(grace=1.0 if operations.draining else None)
            await aids.close()
            for threads in (reapers, side):
                threads.close()


def _warn(refusal: Refusal) -> None:
    """On a reaper thread: it runs, but not as configured."""
    key = f"reaper_{refusal.setting}"
    event(_log, logging.WARNING, "setting refused", key=key, why=refusal.reason, remedy=refusal.remedy)


@contextlib.contextmanager
def _http(config: Config, metrics: Metrics, operations: Operations) -> Generator[None, None, None]:
    if not config.http_listen:
        yield
        return
    from mrelease_agent.telemetry.http import HttpServer, event_loop_answers

    loop = asyncio.get_running_loop()
    server = HttpServer(
        config.http_listen,
        alive=lambda: event_loop_answers(loop),
        ready=lambda: "draining" if operations.draining else None,
        exposition=metrics.exposition,
    )
    event(_log, logging.INFO, "serving HTTP", listen=str(server.address))
    try:
        yield
    finally:
        server.close()


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*_SERVICES[1:], reflection.SERVICE_NAME, "grpc.health.v1.Health"), server)
