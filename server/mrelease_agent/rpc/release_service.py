"""ReleaseService: from a request to an operation on its target, and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import grpc
import grpc.aio

from mrelease.v1 import error_reason_pb2, outcome_pb2, release_service_pb2, release_service_pb2_grpc, result_pb2
from mrelease_agent.guard import caller as callers
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.reaping.outcome import Boost
from mrelease_agent.reaping.progress import Progress
from mrelease_agent.reaping.report import Plan
from mrelease_agent.rpc import convert, validate
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.execution import Execution, Order, limits, not_exhausted
from mrelease_agent.rpc.node_precondition import check_node
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.rpc.reclaim import Reclaiming
from mrelease_agent.rpc.requests import Entry, Key, Requests
from mrelease_agent.telemetry import trace_context

#: Share of a caller's remaining deadline that is kept for the answer's way back: at least 20 ms, at most 250 ms.
_ANSWER_SHARE, _ANSWER_LEAST, _ANSWER_MOST = 0.05, 0.02, 0.25
#: Seconds for which an operation goes on however little time its caller has.
_LEAST_EFFORT = 1.0
#: Seconds for which a watcher waits for an operation to begin: it may have been asked for by another thread at the same time.
_WATCH_GRACE = 1.0
_WATCH_INTERVAL = 0.2
#: Most of the event loop's time that looking at an operation may take.
_WATCH_SHARE = 0.1
_FEATURES = {
    Boost.PRIORITY: Feature.BOOST_PRIORITY,
    Boost.EVACUATION: Feature.BOOST_EVACUATION,
    Boost.LIFT: Feature.BOOST_LIFT,
}

KillContext = grpc.aio.ServicerContext[release_service_pb2.KillAndReleaseRequest, release_service_pb2.KillAndReleaseResponse]
ReleaseContext = grpc.aio.ServicerContext[release_service_pb2.ReleaseRequest, release_service_pb2.ReleaseResponse]
WatchContext = grpc.aio.ServicerContext[release_service_pb2.WatchReleaseRequest, release_service_pb2.WatchReleaseResponse]
ReclaimContext = grpc.aio.ServicerContext[release_service_pb2.ReclaimRequest, release_service_pb2.ReclaimResponse]


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults and bounds in seconds, from the configuration; ``boost``: for requests that name none."""

    reap_delay: float
    default_timeout: float
    max_timeout: float
    boost: Boost = Boost.UNSPECIFIED


class ReleaseService(release_service_pb2_grpc.ReleaseServiceServicer):
    """Serves KillAndRelease, Release, WatchRelease and Reclaim."""

    def __init__(
        self,
        node: result_pb2.NodeIdentity,
        settings: Settings,
        capabilities: Capabilities,
        execution: Execution,
        operations: Operations,
        requests: Requests,
    ) -> None:
        self._node = node
        self._settings = settings
        self._capabilities = capabilities
        self._execution = execution
        self._operations = operations
        self._requests = requests
        self._reclaiming = Reclaiming(node, execution, operations)

    async def KillAndRelease(  # noqa: N802 -- the contract's name
        self, request: release_service_pb2.KillAndReleaseRequest, context: KillContext
    ) -> release_service_pb2.KillAndReleaseResponse:
        """Kill and release, see release_service.proto."""
        return release_service_pb2.KillAndReleaseResponse(result=await self._serve(request, context.time_remaining(), kill=True))

    async def Release(  # noqa: N802 -- the contract's name
        self, request: release_service_pb2.ReleaseRequest, context: ReleaseContext
    ) -> release_service_pb2.ReleaseResponse:
        """Release what is already dying, see release_service.proto."""
        return release_service_pb2.ReleaseResponse(result=await self._serve(request, context.time_remaining(), kill=False))

    async def WatchRelease(  # noqa: N802 -- the contract's name
        self,
        request: release_service_pb2.WatchReleaseRequest,
        context: WatchContext,  # noqa: ARG002
    ) -> AsyncGenerator[release_service_pb2.WatchReleaseResponse, None]:
        """Follow an operation, see release_service.proto."""
        validate.watch(request)
        interval = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else _WATCH_INTERVAL
        entry = await self._requests.wait_for(_key(request.request_id), _WATCH_GRACE)
        trace_context.join(entry.trace)
        while not entry.task.done():
            look = entry.progress.look()
            yield release_service_pb2.WatchReleaseResponse(progress=convert.progress(look))
            await asyncio.wait({entry.task}, timeout=max(interval, look.cost / _WATCH_SHARE))
        yield release_service_pb2.WatchReleaseResponse(result=_replayed(await asyncio.shield(entry.task)))

    async def Reclaim(  # noqa: N802 -- the contract's name
        self, request: release_service_pb2.ReclaimRequest, context: ReclaimContext
    ) -> AsyncGenerator[release_service_pb2.ReclaimResponse, None]:
        """Kill candidates until the goal is met, see release_service.proto."""
        validate.reclaim(request, max_timeout=self._settings.max_timeout)
        check_node(self._node, request.node)
        self._check_boost(request.boost)
        self._operations.admit()
        not_exhausted(self._execution)
        plan = self._plan_reclaim(request, context.time_remaining())
        async with contextlib.aclosing(self._reclaiming.run(request, plan)) as events:
            async for event in events:
                yield event

    async def _serve(self, request: validate.KillOrRelease, remaining: float | None, *, kill: bool) -> result_pb2.ReleaseResult:
        validate.request(request, max_timeout=self._settings.max_timeout)
        check_node(self._node, request.node)
        plan = self._plan(request, remaining, kill=kill)
        if not request.request_id or request.validate_only:
            self._admit(request.boost)
            return await self._operations.run(self._perform(request, plan, Progress()))
        fingerprint = type(request).__name__.encode() + request.SerializeToString(deterministic=True)
        key = _key(request.request_id)
        entry = self._requests.find(key, fingerprint)
        if entry is not None:
            trace_context.join(entry.trace)
            return _replayed(await _result(entry))
        self._admit(request.boost)
        entry = self._requests.begin(key, fingerprint, lambda progress: self._operations.run(self._perform(request, plan, progress)))
        return await _result(entry)

    def _admit(self, boost: outcome_pb2.Boost.ValueType) -> None:
        self._check_boost(boost)
        self._operations.admit()
        not_exhausted(self._execution)

    def _check_boost(self, boost: outcome_pb2.Boost.ValueType) -> None:
        feature = _FEATURES.get(Boost(boost))
        if feature is not None and not self._capabilities.has(feature):
            found = self._capabilities[feature]
            raise RpcError(
                error_reason_pb2.ERROR_REASON_FEATURE_UNAVAILABLE,
                f"boost {outcome_pb2.Boost.Name(boost)} does not work here: {found.reason}; nothing was signalled",
                f"{found.remedy}, or leave boost out",
                feature=f"FEATURE_{feature.name}",
            )

    async def _perform(self, request: validate.KillOrRelease, plan: Plan, progress: Progress) -> result_pb2.ReleaseResult:
        with limits():
            before = linux_node.memory()
        method = "KillAndRelease" if plan.kill else "Release"
        order = Order(
            request.target,
            plan,
            request.reason,
            request.validate_only,
            method=method,
            caller=callers.current.get(),
            request_id=request.request_id,
        )
        done = await self._execution.run(order, progress)
        after = before
        with contextlib.suppress(OSError):  # a limit of the agent's process; the result matters more than this context
            after = linux_node.memory()
        result = convert.result(done, self._node, before, after, inode_known=self._execution.inode_known)
        result.request_id = request.request_id
        return result

    def _plan(self, request: validate.KillOrRelease, remaining: float | None, *, kill: bool) -> Plan:
        grace, number = 0.0, validate.SIGTERM
        delay = self._settings.reap_delay
        if isinstance(request, release_service_pb2.KillAndReleaseRequest):
            grace, number = validate.grace(request)
            if request.HasField("reap_delay"):
                delay = request.reap_delay.ToNanoseconds() / 1e9
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else self._settings.default_timeout
        if remaining is not None:
            answer_by = remaining - grace - min(max(remaining * _ANSWER_SHARE, _ANSWER_LEAST), _ANSWER_MOST)
            # A caller in a hurry shortens the wait, but what is killed is released even if nobody hears of it.
            timeout = min(timeout, max(answer_by, _LEAST_EFFORT))
        return Plan(
            kill=kill,
            wait_for_exit=request.wait == outcome_pb2.WAIT_EXITED,
            timeout=timeout,
            reap_delay=delay,
            grace=grace,
            signal=number,
            boost=self._boost(request.boost),
        )

    def _boost(self, asked: outcome_pb2.Boost.ValueType) -> Boost:
        return Boost(asked) or self._settings.boost

    def _plan_reclaim(self, request: release_service_pb2.ReclaimRequest, remaining: float | None) -> Plan:
        grace, number = validate.grace(request)
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else self._settings.default_timeout
        if remaining is not None:
            timeout = min(timeout, max(remaining, _LEAST_EFFORT))
        delay = request.reap_delay.ToNanoseconds() / 1e9 if request.HasField("reap_delay") else self._settings.reap_delay
        boost = self._boost(request.boost)
        return Plan(kill=True, wait_for_exit=False, timeout=timeout, reap_delay=delay, grace=grace, signal=number, boost=boost)


def _key(request_id: str) -> Key:
    """Ids are each caller's own: nobody meets, or hears of, an operation of somebody else by guessing its id."""
    return callers.current.get().name, request_id


async def _result(entry: Entry) -> result_pb2.ReleaseResult:
    return await asyncio.shield(entry.task)


def _replayed(result: result_pb2.ReleaseResult) -> result_pb2.ReleaseResult:
    copy = result_pb2.ReleaseResult()
    copy.CopyFrom(result)
    copy.replayed = True
    return copy
