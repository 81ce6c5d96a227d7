"""Composition root: what the agent is made of, and in which order it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from mrelease._version import VERSION
from mrelease.v1 import node_service_pb2_grpc, release_service_pb2_grpc, result_pb2
from mrelease_agent.audited import Audited, audited
from mrelease_agent.audited import feature as audit_feature
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.config import Config
from mrelease_agent.config.values import ConfigError, parse_list
from mrelease_agent.config.watched import Watched, polling
from mrelease_agent.guard import settings as guard_settings
from mrelease_agent.guard.gate import Gate
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux import own_memory
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.own_thread import Refusal, ThreadScheduling, parse_cpus
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.premade import workers
from mrelease_agent.reaping.aid import Aids
from mrelease_agent.reaping.exits import Exits
from mrelease_agent.reaping.outcome import Boost
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.sharer_search import SharerSearch
from mrelease_agent.reaping.tools import Syscall, Tools
from mrelease_agent.rpc.callers import caller_of
from mrelease_agent.rpc.execution import Execution
from mrelease_agent.rpc.interceptor import Interceptor
from mrelease_agent.rpc.limits import Limits, connections
from mrelease_agent.rpc.listener import Endpoint, prepare
from mrelease_agent.rpc.node_service import NodeService
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.rpc.release_service import ReleaseService, Settings
from mrelease_agent.rpc.requests import Requests
from mrelease_agent.rpc.watch_memory import Watchers
from mrelease_agent.targets.pod_names import PodNamesOnNode
from mrelease_agent.telemetry import systemd
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics, PrometheusMetrics
from mrelease_agent.telemetry.spans import Traces

if TYPE_CHECKING:
    from mrelease_agent.guard.policy.load import WatchedPolicy
    from mrelease_agent.rpc.tls import TlsPort
    from mrelease_agent.targets.plugin_kinds import Kinds

_log = logging.getLogger("mrelease")
_SERVICES = ("", "mrelease.v1.ReleaseService", "mrelease.v1.NodeService")
#: Calls at once that are neither operations nor watchers.
_OTHER_CALLS = 64
#: Descriptors of one operation.
_FILES = 6
#: Threads for boosts and diagnoses, and as many again where the kernel does not let those go.
_SIDE_THREADS = 2


def raise_file_limit() -> None:
    """Raise RLIMIT_NOFILE to its hard limit: an operation has up to six files open, getrlimit(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run(config: Config, capabilities: Capabilities, booster: Booster) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit status. Raises what ``serve`` raises where it cannot."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _stay(config)
    async with serve(config, capabilities, booster) as endpoint:
        event(_log, logging.INFO, "serving", listen=endpoint.listen, pid=os.getpid(), version=VERSION)
        for found in capabilities:
            if not found.available:
                event(_log, logging.WARNING, "capability off", feature=found.feature.name, why=found.reason, remedy=found.remedy)
        gc.freeze()  # what is there now stays: to look through all of it for garbage stopped every operation for 20 ms
        systemd.notify(f"READY=1\nSTATUS=serving on {endpoint.listen}")
        pings = loop.create_task(systemd.keep_alive())
        await stop.wait()
        systemd.notify("STOPPING=1")
        event(_log, logging.INFO, "draining")
    pings.cancel()  # not before: it answers while it drains
    return 0


@asynccontextmanager
async def serve(
    config: Config, capabilities: Capabilities, booster: Booster, call: Syscall = process_mrelease
) -> AsyncGenerator[Endpoint, None]:
    """Listen and serve for as long as the context lasts; at its end drain: no new operations, those in flight up to ``drain_timeout``.

    ``booster`` is closed at the end. ``call`` is the seam for what process_mrelease(2) cannot be made to answer.

    Raises ListenError, OSError, and ConfigError for files that cannot be used.
    """
    capabilities = capabilities.plus([audit_feature(config)])
    raise_file_limit()
    # These open what they need, before descriptors run out.
    linux_node.memory()
    Exits.of(asyncio.get_running_loop())

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
    metrics = _metrics(config, reapers, operations, capabilities)
    identity = result_pb2.NodeIdentity(name=config.node_name, boot_id=linux_node.boot_id())
    settings = Settings(config.reap_delay, config.default_timeout, config.max_timeout, Boost[config.boost.upper()])
    side = Reapers(_SIDE_THREADS, _SIDE_THREADS)
    traces = _traces(config, metrics)
    aids = Aids(booster, side, metrics.step)
    tools = Tools(
        reapers,
        side,
        can_release=capabilities.has(Feature.PROCESS_MRELEASE),
        call=call,
        tell=metrics.step,
        count_error=metrics.syscall_error,
    )
    watched: list[Watched[Any]] = []
    tls = _tls(config, metrics)
    if tls is not None:
        watched.append(tls.watched)
    gate = _gate(config, metrics, watched)
    kinds = await _kinds(config)
    execution = Execution(capabilities, tools, aids, metrics, gate, kinds, traces)
    async with audited(config, gate, metrics) as audit:
        with (
            contextlib.closing(booster),
            contextlib.closing(traces),
            prepare(config.listen, group=config.socket_group, relayed=_tells_peers_apart(config)) as endpoint,
        ):
            recovered = booster.recover()
            if recovered:
                event(_log, logging.WARNING, "recovered", what=str(recovered))
            server, limits = _server(config, endpoint, metrics, gate, tls, traces)
            release = ReleaseService(
                identity, settings, capabilities, execution, operations, Requests(config.result_ttl, config.max_results)
            )
            nodes = NodeService(identity, capabilities, watchers, SharerSearch(side), gate, kinds)
            health = _add_services(server, config, release, nodes)
            await _start(server, endpoint, tls, limits)
            await audit.serve(health, _SERVICES)
            try:
                async with polling(watched):
                    with _http(config, metrics, operations, audit):
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


def _tells_peers_apart(config: Config) -> bool:
    """Whether it matters which user is at the other end of the Unix socket; what that costs is in docs/running.md."""
    return config.unix_peers == "on" or (config.unix_peers == "auto" and bool(config.socket_group or config.policy))


def _stay(config: Config) -> None:
    """Be there when memory is short. Raises OSError where that is asked for and not permitted."""
    if config.oom_score_adj is not None:
        try:
            own_memory.spare(config.oom_score_adj)
        except OSError as error:
            _not_set("oom_score_adj", error)
    if config.lock_memory == "off":
        return
    try:
        own_memory.lock()
    except OSError as error:
        if config.lock_memory == "on":
            raise OSError(error.errno, f"cannot lock memory, and lock_memory is on: {error.strerror}") from error
        _not_set("lock_memory", error)


def _not_set(key: str, error: OSError) -> None:
    why, _, remedy = (error.strerror or str(error)).partition(": ")
    event(_log, logging.WARNING, "setting refused", key=key, why=why, remedy=remedy)


def _warn(refusal: Refusal) -> None:
    """On a reaper thread: it runs, but not as configured."""
    key = f"reaper_{refusal.setting}"
    event(_log, logging.WARNING, "setting refused", key=key, why=refusal.reason, remedy=refusal.remedy)


def _metrics(config: Config, reapers: Reapers, operations: Operations, capabilities: Capabilities) -> Metrics:
    if not config.http_listen:
        return Metrics()
    return PrometheusMetrics(
        reaper_states=reapers.states,
        operations=lambda: len(operations),
        capabilities={found.feature.name.lower(): found.available for found in capabilities},
        version=VERSION,
    )


def _traces(config: Config, metrics: Metrics) -> Traces:
    """Where spans go. Raises ConfigError where the library or a file for it is missing."""
    if not config.otlp_endpoint:
        return Traces()
    try:
        from mrelease_agent.telemetry.otlp import Otlp
    except ModuleNotFoundError as error:
        raise ConfigError("otlp_endpoint needs opentelemetry-proto: pip install 'mrelease[otel]', or remove otlp_endpoint") from error
    resource = {"service.name": "mrelease-agent", "service.version": VERSION, "host.name": config.node_name}
    try:
        return Otlp(config.otlp_endpoint, os.environ, resource, VERSION, metrics)
    except OSError as error:
        raise ConfigError(f"otlp_endpoint needs {error.filename}, which cannot be read: {error.strerror}") from None


def _add_services(server: grpc.aio.Server, config: Config, release: ReleaseService, nodes: NodeService) -> HealthServicer:
    release_service_pb2_grpc.add_ReleaseServiceServicer_to_server(release, server)
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(nodes, server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # pyright: ignore[reportUnknownMemberType]
    if config.reflection:
        _reflect(server)
    return health


def _server(
    config: Config, endpoint: Endpoint, metrics: Metrics, gate: Gate, tls: TlsPort | None, traces: Traces
) -> tuple[grpc.aio.Server, Limits]:
    limits = Limits(
        # Whoever has all that one caller may have leaves as many to the others.
        calls=2 * (config.max_operations + config.max_watchers + _OTHER_CALLS),
        connections=connections(config.max_connections, _FILES * config.max_operations, relayed=endpoint.relayed),
    )
    interceptor = Interceptor(metrics, gate, caller_of if tls is None else tls.callers.of, limits.calls, traces)
    options = [*endpoint.channel_options, *(() if tls is None else tls.options), *limits.options]
    return grpc.aio.server(interceptors=[interceptor], options=options), limits


async def _start(server: grpc.aio.Server, endpoint: Endpoint, tls: TlsPort | None, limits: Limits) -> None:
    endpoint.bound(server.add_insecure_port(endpoint.grpc_address))
    address = None if tls is None else tls.add_to(server)
    await server.start()
    endpoint.relay(limits.connections)
    if address is not None:
        event(_log, logging.INFO, "serving TLS", listen=str(address))


def _tls(config: Config, metrics: Metrics) -> TlsPort | None:
    if not config.tls_listen:
        return None
    from mrelease_agent.rpc.tls import TlsPort

    return TlsPort(config, lambda what, stale, why: _reloaded(metrics, what, stale, why), metrics.certificate_expiry)


def _gate(config: Config, metrics: Metrics, watched: list[Watched[Any]]) -> Gate:
    pod_names = PodNamesOnNode(config.pod_logs)
    breaker = guard_settings.breaker(config, metrics.kill_refused)
    metrics.watch_breaker(breaker.state)
    gate = Gate(breaker=breaker, pod_names=pod_names, protection=guard_settings.protection(config, pod_names))
    if config.policy:
        policy = _policy(config, metrics)
        watched.append(policy.watched)
        gate.policy = policy
    return gate


async def _kinds(config: Config) -> Kinds | None:
    """Plugins of targets, and nothing of them where none is configured."""
    if not config.target_plugins:
        return None
    from mrelease_agent.config.target_plugins import options
    from mrelease_agent.targets.plugin_kinds import Kinds

    kinds = Kinds()
    await kinds.load(parse_list(config.target_plugins), options(config))
    return kinds


def _policy(config: Config, metrics: Metrics) -> WatchedPolicy:
    from mrelease_agent.guard.policy.load import WatchedPolicy

    return WatchedPolicy(config.policy, lambda what, stale, why: _reloaded(metrics, what, stale, why))


def _reloaded(metrics: Metrics, what: str, stale: bool, why: str) -> None:
    """Files have changed; where they are ``stale`` those before stay in use."""
    metrics.reloaded(what, not stale)
    if stale:
        event(_log, logging.WARNING, "reload failed", what=what, why=why, remedy="mend the file: what was there before stays in use")
    else:
        event(_log, logging.INFO, "reloaded", what=what)


@contextlib.contextmanager
def _http(config: Config, metrics: Metrics, operations: Operations, audit: Audited) -> Generator[None, None, None]:
    if not config.http_listen:
        yield
        return
    from mrelease_agent.telemetry.http import HttpServer, event_loop_answers

    loop = asyncio.get_running_loop()
    server = HttpServer(
        config.http_listen,
        alive=lambda: event_loop_answers(loop),
        ready=lambda: "draining" if operations.draining else audit.why,
        exposition=metrics.exposition,
        openmetrics=metrics.openmetrics,
    )
    event(_log, logging.INFO, "serving HTTP", listen=str(server.address))
    try:
        yield
    finally:
        server.close()


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection((*_SERVICES[1:], reflection.SERVICE_NAME, "grpc.health.v1.Health"), server)
