"""Requests built and responses read, without any I/O: what both clients share.

Every function returns a ``Call``. A client makes it, hands the response to ``decode`` and is done; listing is a generator of calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from mrelease import _enums, _models
from mrelease.v1 import memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2

ResponseT = TypeVar("ResponseT", bound=Message)
ValueT = TypeVar("ValueT")

#: How long an answer may take beyond the timeout of its request.
MARGIN: Final = 5.0
#: The largest page that the contract allows.
PAGE: Final = 1000

# google/protobuf/duration.proto: 10,000 years
_LONGEST = 315_576_000_000
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


def kill_and_release(
    target: _models.Target,
    *,
    node: _models.NodeRef | None,
    wait: _enums.Wait,
    timeout: float | timedelta,
    reap_delay: float | timedelta | None,
    reason: str,
    validate_only: bool,
) -> Call[release_service_pb2.KillAndReleaseResponse, _models.ReleaseResult]:
    """KillAndRelease."""
    request = release_service_pb2.KillAndReleaseRequest(
        target=_target(target),
        node=_precondition(node),
        wait=_wait(wait),
        timeout=_duration("timeout", timeout),
        reap_delay=None if reap_delay is None else _duration("reap_delay", reap_delay),
        reason=reason,
        validate_only=validate_only,
    )
    return Call(
        path=f"{_RELEASE_SERVICE}KillAndRelease",
        request=request,
        response=release_service_pb2.KillAndReleaseResponse,
        decode=lambda r: _result(r.result),
        deadline=_deadline(timeout),
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
) -> Call[release_service_pb2.ReleaseResponse, _models.ReleaseResult]:
    """Release. It signals nothing, yet it is no read: a second one would find less to release and say so."""
    request = release_service_pb2.ReleaseRequest(
        target=_target(target),
        node=_precondition(node),
        wait=_wait(wait),
        timeout=_duration("timeout", timeout),
        reason=reason,
        validate_only=validate_only,
    )
    return Call(
        path=f"{_RELEASE_SERVICE}Release",
        request=request,
        response=release_service_pb2.ReleaseResponse,
        decode=lambda r: _result(r.result),
        deadline=_deadline(timeout),
    )


def get_node(timeout: float | timedelta) -> Call[node_service_pb2.GetNodeResponse, _models.Node]:
    """GetNode."""
    return Call(
        path=f"{_NODE_SERVICE}GetNode",
        request=node_service_pb2.GetNodeRequest(),
        response=node_service_pb2.GetNodeResponse,
        decode=lambda r: _node(r.node),
        deadline=seconds("timeout", timeout),
        reads=True,
    )


ListCall = Call[node_service_pb2.ListProcessesResponse, node_service_pb2.ListProcessesResponse]


def list_processes(
    limit: int | None, uid: int | None, within: _models.Group | None, timeout: float | timedelta
) -> Generator[ListCall, node_service_pb2.ListProcessesResponse, _models.ProcessList]:
    """ListProcesses, page after page: yields calls, is sent their responses, returns the list. ``limit`` None: all."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all: {limit}")
    deadline = time.monotonic() + seconds("timeout", timeout)
    group = None if within is None else _target(within)
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
        processes += map(_process_info, response.processes)
        token = response.next_page_token
        if not token or not response.processes or (limit is not None and len(processes) >= limit):
            return _models.ProcessList(processes=tuple(processes[:limit]), node=_node_ref(response.node))


def seconds(name: str, value: float | timedelta) -> float:
    """A duration in seconds; ``ValueError`` where it is not a number or more than google.protobuf.Duration holds."""
    number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not abs(number) <= _LONGEST:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, at most {_LONGEST}: {value}")
    return number


def _deadline(timeout: float | timedelta) -> float:
    return max(0.0, seconds("timeout", timeout)) + MARGIN


def _duration(name: str, value: float | timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds(name, value)))
    return duration


def _wait(wait: _enums.Wait) -> outcome_pb2.Wait.ValueType:
    return outcome_pb2.Wait.ValueType(int(wait))


def _target(target: _models.Target) -> target_pb2.Target:
    match target:
        case _models.Process(pid, inode, ticks):
            return target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid, pidfd_inode=inode or 0, start_time_ticks=ticks or 0))
        case _models.Container(id):
            return target_pb2.Target(container=target_pb2.ContainerTarget(id=id))
        case _models.Pod(uid, containers):
            # An empty string would be no container's id but, as an empty list, the whole pod.
            if isinstance(containers, str):
                raise TypeError(f"containers is a tuple of ids, not a str: ({containers!r},)")
            return target_pb2.Target(pod=target_pb2.PodTarget(uid=uid, containers=containers))
        case _models.Cgroup(path):
            return target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=path))
        case _:
            raise TypeError(_no_target(target))


def _no_target(value: object) -> str:
    # A bare number could be anything's.
    hint = f": Process({value})" if isinstance(value, int) else ""
    return f"a target is a Process, Container, Pod or Cgroup, not {type(value).__name__}{hint}"


def _precondition(node: _models.NodeRef | None) -> target_pb2.NodePrecondition | None:
    return None if node is None else target_pb2.NodePrecondition(name=node.name, boot_id=node.boot_id)


def _node_ref(message: result_pb2.NodeIdentity) -> _models.NodeRef:
    return _models.NodeRef(name=message.name, boot_id=message.boot_id)


def _process(message: target_pb2.ProcessTarget) -> _models.Process:
    return _models.Process(message.pid, message.pidfd_inode or None, message.start_time_ticks or None)


def _process_memory(message: memory_pb2.ProcessMemory) -> _models.ProcessMemory:
    return _models.ProcessMemory(
        anon_bytes=message.anon_bytes,
        file_bytes=message.file_bytes,
        shmem_bytes=message.shmem_bytes,
        swap_bytes=message.swap_bytes,
        hugetlb_bytes=message.hugetlb_bytes,
        page_table_bytes=message.page_table_bytes,
    )


def _node_memory(message: memory_pb2.NodeMemory) -> _models.NodeMemory:
    return _models.NodeMemory(
        total_bytes=message.total_bytes,
        free_bytes=message.free_bytes,
        available_bytes=message.available_bytes,
        swap_total_bytes=message.swap_total_bytes,
        swap_free_bytes=message.swap_free_bytes,
    )


def _result(message: result_pb2.ReleaseResult) -> _models.ReleaseResult:
    return _models.ReleaseResult(
        verdict=_enums.Verdict(message.verdict),
        released_bytes=message.released_bytes,
        processes=tuple(map(_process_result, message.processes)),
        node=_node_ref(message.node),
        node_memory_before=_node_memory(message.node_memory_before) if message.HasField("node_memory_before") else None,
        node_memory_after=_node_memory(message.node_memory_after) if message.HasField("node_memory_after") else None,
        cgroups=tuple(map(_cgroup, message.cgroups)),
        unreleased=tuple(map(_unreleased, message.unreleased)),
    )


def _process_result(message: result_pb2.ProcessResult) -> _models.ProcessResult:
    return _models.ProcessResult(
        process=_process(message.process),
        command=message.command,
        outcome=_enums.Outcome(message.outcome),
        step=_enums.Step(message.step),
        errno_name=message.errno_name,
        errno_number=message.errno_number,
        memory_before=_process_memory(message.memory_before) if message.HasField("memory_before") else None,
        memory_after=_process_memory(message.memory_after) if message.HasField("memory_after") else None,
        released_bytes=message.released_bytes,
        proof=_enums.Proof(message.proof),
        unreleased=tuple(map(_unreleased, message.unreleased)),
        kill_time=_datetime(message.kill_time) if message.HasField("kill_time") else None,
        release_duration=_timedelta(message.release_duration) if message.HasField("release_duration") else None,
        exit_duration=_timedelta(message.exit_duration) if message.HasField("exit_duration") else None,
        release_attempts=message.release_attempts,
        cause=message.cause,
        remedy=message.remedy,
        state=message.state,
        wchan=message.wchan,
        sharing_pids=tuple(message.sharing_pids),
        cgroup=_cgroup(message.cgroup) if message.HasField("cgroup") else None,
    )


def _unreleased(message: result_pb2.Unreleased) -> _models.Unreleased:
    return _models.Unreleased(_enums.UnreleasedCause(message.cause), message.size_bytes)


def _cgroup(message: memory_pb2.CgroupMemory) -> _models.CgroupMemory:
    return _models.CgroupMemory(path=message.path, before_bytes=message.before_bytes, after_bytes=message.after_bytes)


def _node(message: node_service_pb2.Node) -> _models.Node:
    return _models.Node(
        identity=_node_ref(message.identity),
        kernel_release=message.kernel_release,
        machine=message.machine,
        agent_version=message.agent_version,
        agent_start_time=_datetime(message.agent_start_time) if message.HasField("agent_start_time") else None,
        agent_uid=message.agent_uid,
        capabilities=tuple(_models.Capability(_enums.Feature(c.feature), c.available, c.reason, c.remedy) for c in message.capabilities),
        memory=_node_memory(message.memory) if message.HasField("memory") else None,
    )


def _process_info(message: node_service_pb2.ProcessInfo) -> _models.ProcessInfo:
    return _models.ProcessInfo(
        process=_process(message.process),
        command=message.command,
        uid=message.uid,
        state=message.state,
        threads=message.threads,
        memory=_process_memory(message.memory),
        reclaimable_bytes=message.reclaimable_bytes,
        cgroup=message.cgroup,
        protection=message.protection,
        container_id=message.container_id,
        pod_uid=message.pod_uid,
        qos=_enums.QosClass(message.qos),
    )


def _datetime(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=timezone.utc)


def _timedelta(message: Duration) -> timedelta:
    return message.ToTimedelta()
