"""The calls of both services, without any I/O: what both clients share.

Every function returns a ``Call`` or a ``StreamCall``. A client makes it, hands each response to ``decode`` and is done; listing is a
generator of calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from mrelease import _enums, _memory_models, _messages, _models, _release_models
from mrelease.v1 import node_service_pb2, release_service_pb2

ResponseT = TypeVar("ResponseT", bound=Message)
ValueT = TypeVar("ValueT")

#: How long an answer may take beyond the timeout of its request.
MARGIN: Final = 5.0
#: The largest page that the contract allows.
PAGE: Final = 1000

_RELEASE_SERVICE = "/mrelease.v1.ReleaseService/"
_NODE_SERVICE = "/mrelease.v1.NodeService/"


@dataclass(frozen=True, slots=True)
class Call(Generic[ResponseT, ValueT]):
    """One unary call.

    ``path``: the method's; ``deadline``: in seconds; ``signals``: it may kill something; ``reads``: it may be repeated, it changes nothing.
    """

    path: str
    request: Message
    response: type[ResponseT]
    decode: Callable[[ResponseT], ValueT]
    deadline: float
    signals: bool = False
    reads: bool = False


@dataclass(frozen=True, slots=True)
class StreamCall(Generic[ResponseT, ValueT]):
    """One call that is answered with a stream; ``deadline``: in seconds, of the whole stream, None: none. The rest is as in ``Call``."""

    path: str
    request: Message
    response: type[ResponseT]
    decode: Callable[[ResponseT], ValueT]
    deadline: float | None
    signals: bool = False


def kill_and_release(
    target: _models.Target,
    *,
    node: _models.NodeRef | None,
    wait: _enums.Wait,
    timeout: float | timedelta,
    reap_delay: float | timedelta | None,
    reason: str,
    validate_only: bool,
    request_id: str,
    grace_period: float | timedelta,
    signal: str,
    boost: _enums.Boost,
) -> Call[release_service_pb2.KillAndReleaseResponse, _models.ReleaseResult]:
    """KillAndRelease."""
    request = release_service_pb2.KillAndReleaseRequest(
        target=_messages.to_target(target),
        node=_messages.to_precondition(node),
        wait=_messages.to_wait(wait),
        timeout=_messages.to_duration("timeout", timeout),
        reap_delay=None if reap_delay is None else _messages.to_duration("reap_delay", reap_delay),
        reason=reason,
        validate_only=validate_only,
        request_id=request_id,
        grace_period=_messages.to_duration("grace_period", grace_period) if grace_period else None,
        signal=signal,
        boost=_messages.to_boost(boost),
    )
    return Call(
        path=f"{_RELEASE_SERVICE}KillAndRelease",
        request=request,
        response=release_service_pb2.KillAndReleaseResponse,
        decode=lambda r: _messages.read_result(r.result),
        deadline=_deadline(timeout) + max(0.0, _messages.seconds("grace_period", grace_period)),
        signals=not validate_only,
    )


def release(
    target: _models.Target,
    *,
    node: _models.NodeRef | None,
    wait: _enums.Wait,
    timeout: float | timedelta,
    reason: str,
    validate_only: bool,
    request_id: str,
    boost: _enums.Boost,
) -> Call[release_service_pb2.ReleaseResponse, _models.ReleaseResult]:
    """Release. It signals nothing, yet it is no read: a second one would find less to release and say so."""
    request = release_service_pb2.ReleaseRequest(
        target=_messages.to_target(target),
        node=_messages.to_precondition(node),
        wait=_messages.to_wait(wait),
        timeout=_messages.to_duration("timeout", timeout),
        reason=reason,
        validate_only=validate_only,
        request_id=request_id,
        boost=_messages.to_boost(boost),
    )
    return Call(
        path=f"{_RELEASE_SERVICE}Release",
        request=request,
        response=release_service_pb2.ReleaseResponse,
        decode=lambda r: _messages.read_result(r.result),
        deadline=_deadline(timeout),
    )


def watch_release(
    request_id: str, interval: float | timedelta | None, timeout: float | timedelta | None
) -> StreamCall[release_service_pb2.WatchReleaseResponse, _release_models.ReleaseProgress | _models.ReleaseResult]:
    """WatchRelease."""
    return StreamCall(
        path=f"{_RELEASE_SERVICE}WatchRelease",
        request=release_service_pb2.WatchReleaseRequest(
            request_id=request_id, interval=None if interval is None else _messages.to_duration("interval", interval)
        ),
        response=release_service_pb2.WatchReleaseResponse,
        decode=lambda r: _messages.read_progress(r.progress) if r.HasField("progress") else _messages.read_result(r.result),
        deadline=None if timeout is None else _messages.seconds("timeout", timeout),
    )


def reclaim(
    candidates: Iterable[_models.Target],
    *,
    released_bytes: int | None,
    available_bytes: int | None,
    pressure_below: _release_models.PressureGoal | None,
    node: _models.NodeRef | None,
    timeout: float | timedelta,
    reap_delay: float | timedelta | None,
    grace_period: float | timedelta,
    signal: str,
    boost: _enums.Boost,
    reason: str,
    validate_only: bool,
    deadline: float | timedelta | None,
) -> StreamCall[release_service_pb2.ReclaimResponse, _release_models.ReclaimEvent]:
    """Reclaim. ``ValueError`` unless exactly one goal is given."""
    return StreamCall(
        path=f"{_RELEASE_SERVICE}Reclaim",
        request=release_service_pb2.ReclaimRequest(
            candidates=map(_messages.to_target, candidates),
            goal=_messages.to_goal(released_bytes, available_bytes, pressure_below),
            node=_messages.to_precondition(node),
            timeout=_messages.to_duration("timeout", timeout),
            reap_delay=None if reap_delay is None else _messages.to_duration("reap_delay", reap_delay),
            grace_period=_messages.to_duration("grace_period", grace_period) if grace_period else None,
            signal=signal,
            boost=_messages.to_boost(boost),
            reason=reason,
            validate_only=validate_only,
        ),
        response=release_service_pb2.ReclaimResponse,
        decode=_messages.read_reclaim_event,
        deadline=None if deadline is None else _messages.seconds("deadline", deadline),
        signals=not validate_only,
    )


def get_node(timeout: float | timedelta) -> Call[node_service_pb2.GetNodeResponse, _models.Node]:
    """GetNode."""
    return Call(
        path=f"{_NODE_SERVICE}GetNode",
        request=node_service_pb2.GetNodeRequest(),
        response=node_service_pb2.GetNodeResponse,
        decode=lambda r: _messages.read_node(r.node),
        deadline=_messages.seconds("timeout", timeout),
        reads=True,
    )


ListCall = Call[node_service_pb2.ListProcessesResponse, node_service_pb2.ListProcessesResponse]


def list_processes(
    limit: int | None, uid: int | None, within: _models.Group | None, timeout: float | timedelta
) -> Generator[ListCall, node_service_pb2.ListProcessesResponse, _models.ProcessList]:
    """ListProcesses, page after page: yields calls, is sent their responses, returns the list. ``limit`` None: all."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all: {limit}")
    deadline = time.monotonic() + _messages.seconds("timeout", timeout)
    group = None if within is None else _messages.to_target(within)
    processes: list[_models.ProcessInfo] = []
    token = ""
    while True:
        page_size = PAGE if limit is None else min(PAGE, limit - len(processes))
        response = yield Call(
            path=f"{_NODE_SERVICE}ListProcesses",
            request=node_service_pb2.ListProcessesRequest(page_size=page_size, page_token=token, uid=uid, within=group),
            response=node_service_pb2.ListProcessesResponse,
            decode=lambda r: r,
            deadline=deadline - time.monotonic(),
            reads=True,
        )
        processes += map(_messages.read_process_info, response.processes)
        token = response.next_page_token
        if not token or not response.processes or (limit is not None and len(processes) >= limit):
            return _models.ProcessList(processes=tuple(processes[:limit]), node=_messages.read_node_ref(response.node))


def watch_memory(
    interval: float | timedelta | None,
    within: _models.Container | _models.Cgroup | None,
    trigger: _memory_models.PressureTrigger | None,
    timeout: float | timedelta | None,
) -> StreamCall[node_service_pb2.WatchMemoryResponse, _memory_models.MemorySample]:
    """WatchMemory."""
    request = node_service_pb2.WatchMemoryRequest(
        interval=None if interval is None else _messages.to_duration("interval", interval),
        within=None if within is None else _messages.to_target(within),
        trigger=None if trigger is None else _messages.to_trigger(trigger),
    )
    return StreamCall(
        path=f"{_NODE_SERVICE}WatchMemory",
        request=request,
        response=node_service_pb2.WatchMemoryResponse,
        decode=_messages.read_memory_sample,
        deadline=None if timeout is None else _messages.seconds("timeout", timeout),
    )


def _deadline(timeout: float | timedelta) -> float:
    return max(0.0, _messages.seconds("timeout", timeout)) + MARGIN
