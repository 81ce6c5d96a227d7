"""From what callers give to messages of the contract, and from messages to what callers get. ``to_*`` write, ``read_*`` read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from mrelease import _enums, _memory_models, _models, _release_models
from mrelease.v1 import error_reason_pb2, memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2

# google/protobuf/duration.proto: 10,000 years
_LONGEST: Final = 315_576_000_000


def seconds(name: str, value: float | timedelta) -> float:
    """A duration in seconds; ``ValueError`` where it is not a number or more than google.protobuf.Duration holds."""
    number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not abs(number) <= _LONGEST:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, at most {_LONGEST}: {value}")
    return number


def to_duration(name: str, value: float | timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds(name, value)))
    return duration


def to_wait(wait: _enums.Wait) -> outcome_pb2.Wait.ValueType:
    return outcome_pb2.Wait.ValueType(int(wait))


def to_boost(boost: _enums.Boost) -> outcome_pb2.Boost.ValueType:
    return outcome_pb2.Boost.ValueType(int(boost))


def to_target(target: _models.Target) -> target_pb2.Target:
    match target:
        case _models.Process(pid, inode, ticks, container):
            process = target_pb2.ProcessTarget(pid=pid, pidfd_inode=inode or 0, start_time_ticks=ticks or 0, container_id=container)
            return target_pb2.Target(process=process)
        case _models.Container(id):
            return target_pb2.Target(container=target_pb2.ContainerTarget(id=id))
        case _models.Pod(uid, containers):
            # An empty string would be no container's id but, as an empty list, the whole pod.
            if isinstance(containers, str):
                raise TypeError(f"containers is a tuple of ids, not a str: ({containers!r},)")
            return target_pb2.Target(pod=target_pb2.PodTarget(uid=uid, containers=containers))
        case _models.Cgroup(path):
            return target_pb2.Target(cgroup=target_pb2.CgroupTarget(path=path))
        case _models.Custom(kind, attributes):
            return target_pb2.Target(custom=target_pb2.CustomTarget(kind=kind, attributes=attributes))
        case _:
            raise TypeError(_no_target(target))


def _no_target(value: object) -> str:
    # A bare number could be anything's.
    hint = f": Process({value})" if isinstance(value, int) else ""
    return f"a target is a Process, Container, Pod, Cgroup or Custom, not {type(value).__name__}{hint}"


def to_precondition(node: _models.NodeRef | None) -> target_pb2.NodePrecondition | None:
    return None if node is None else target_pb2.NodePrecondition(name=node.name, boot_id=node.boot_id)


def to_pressure_kind(kind: _enums.PressureKind) -> memory_pb2.PressureKind.ValueType:
    return memory_pb2.PressureKind.ValueType(int(kind))


def to_goal(
    released_bytes: int | None, available_bytes: int | None, pressure_below: _release_models.PressureGoal | None
) -> release_service_pb2.ReclaimGoal:
    """``ValueError`` unless exactly one goal is given."""
    if sum(goal is not None for goal in (released_bytes, available_bytes, pressure_below)) != 1:
        raise ValueError("give exactly one goal: released_bytes, available_bytes or pressure_below")
    message = release_service_pb2.ReclaimGoal()
    if released_bytes is not None:
        message.released_bytes = released_bytes
    if available_bytes is not None:
        message.available_bytes = available_bytes
    if pressure_below is not None:
        message.pressure_below.kind = to_pressure_kind(pressure_below.kind)
        message.pressure_below.percent = pressure_below.percent
        message.pressure_below.window.CopyFrom(to_duration("pressure_below.window", pressure_below.window))
    return message


def to_trigger(trigger: _memory_models.PressureTrigger) -> node_service_pb2.PressureTrigger:
    return node_service_pb2.PressureTrigger(
        kind=to_pressure_kind(trigger.kind),
        stall=to_duration("trigger.stall", trigger.stall),
        window=to_duration("trigger.window", trigger.window),
    )


def read_node_ref(message: result_pb2.NodeIdentity) -> _models.NodeRef:
    return _models.NodeRef(name=message.name, boot_id=message.boot_id)


def read_process(message: target_pb2.ProcessTarget) -> _models.Process:
    return _models.Process(message.pid, message.pidfd_inode or None, message.start_time_ticks or None, message.container_id)


def read_process_memory(message: memory_pb2.ProcessMemory) -> _models.ProcessMemory:
    return _models.ProcessMemory(
        anon_bytes=message.anon_bytes,
        file_bytes=message.file_bytes,
        shmem_bytes=message.shmem_bytes,
        swap_bytes=message.swap_bytes,
        hugetlb_bytes=message.hugetlb_bytes,
        page_table_bytes=message.page_table_bytes,
    )


def read_node_memory(message: memory_pb2.NodeMemory) -> _models.NodeMemory:
    return _models.NodeMemory(
        total_bytes=message.total_bytes,
        free_bytes=message.free_bytes,
        available_bytes=message.available_bytes,
        swap_total_bytes=message.swap_total_bytes,
        swap_free_bytes=message.swap_free_bytes,
    )


def read_memory_sample(message: node_service_pb2.WatchMemoryResponse) -> _memory_models.MemorySample:
    return _memory_models.MemorySample(
        sample_time=read_timestamp(message.sample_time),
        memory=read_node_memory(message.memory),
        pressure=read_pressure(message.pressure) if message.HasField("pressure") else None,
        cgroup=read_watched_cgroup(message.cgroup) if message.HasField("cgroup") else None,
        triggered=message.triggered,
        node=read_node_ref(message.node) if message.HasField("node") else None,
    )


def read_pressure(message: memory_pb2.MemoryPressure) -> _memory_models.MemoryPressure:
    return _memory_models.MemoryPressure(some=read_stall(message.some), full=read_stall(message.full))


def read_stall(message: memory_pb2.PressureStall) -> _memory_models.PressureStall:
    return _memory_models.PressureStall(
        avg10_percent=message.avg10_percent,
        avg60_percent=message.avg60_percent,
        avg300_percent=message.avg300_percent,
        total_duration=read_duration(message.total_duration),
    )


def read_watched_cgroup(message: node_service_pb2.WatchedCgroup) -> _memory_models.WatchedCgroup:
    return _memory_models.WatchedCgroup(
        path=message.path,
        usage_bytes=message.usage_bytes,
        limit_bytes=message.limit_bytes if message.HasField("limit_bytes") else None,
        pressure=read_pressure(message.pressure) if message.HasField("pressure") else None,
    )


def read_result(message: result_pb2.ReleaseResult) -> _models.ReleaseResult:
    return _models.ReleaseResult(
        verdict=_enums.Verdict(message.verdict),
        released_bytes=message.released_bytes,
        processes=tuple(map(read_process_result, message.processes)),
        node=read_node_ref(message.node),
        node_memory_before=read_node_memory(message.node_memory_before) if message.HasField("node_memory_before") else None,
        node_memory_after=read_node_memory(message.node_memory_after) if message.HasField("node_memory_after") else None,
        cgroups=tuple(map(read_cgroup, message.cgroups)),
        unreleased=tuple(map(read_unreleased, message.unreleased)),
        request_id=message.request_id,
        replayed=message.replayed,
    )


def read_process_result(message: result_pb2.ProcessResult) -> _models.ProcessResult:
    return _models.ProcessResult(
        process=read_process(message.process),
        command=message.command,
        outcome=_enums.Outcome(message.outcome),
        step=_enums.Step(message.step),
        errno_name=message.errno_name,
        errno_number=message.errno_number,
        memory_before=read_process_memory(message.memory_before) if message.HasField("memory_before") else None,
        memory_after=read_process_memory(message.memory_after) if message.HasField("memory_after") else None,
        released_bytes=message.released_bytes,
        proof=_enums.Proof(message.proof),
        unreleased=tuple(map(read_unreleased, message.unreleased)),
        kill_time=read_timestamp(message.kill_time) if message.HasField("kill_time") else None,
        release_duration=read_duration(message.release_duration) if message.HasField("release_duration") else None,
        exit_duration=read_duration(message.exit_duration) if message.HasField("exit_duration") else None,
        release_attempts=message.release_attempts,
        cause=message.cause,
        remedy=message.remedy,
        state=message.state,
        wchan=message.wchan,
        sharing_pids=tuple(message.sharing_pids),
        cgroup=read_cgroup(message.cgroup) if message.HasField("cgroup") else None,
        boost=_enums.Boost(message.boost),
        held_cause=_enums.HeldCause(message.held_cause),
        tracer_pid=message.tracer_pid,
        reader_pids=tuple(message.reader_pids),
    )


def read_progress(message: release_service_pb2.ReleaseProgress) -> _release_models.ReleaseProgress:
    return _release_models.ReleaseProgress(
        before_bytes=message.before_bytes,
        held_bytes=message.held_bytes,
        processes=message.processes,
        processes_done=message.processes_done,
        elapsed_duration=read_duration(message.elapsed_duration),
    )


def read_reclaim_event(message: release_service_pb2.ReclaimResponse) -> _release_models.ReclaimEvent:
    if message.HasField("started"):
        return _release_models.ReclaimStarted(index=message.started.index, missing=message.started.missing)
    if message.HasField("candidate"):
        told = message.candidate
        return _release_models.ReclaimedCandidate(
            index=told.index,
            result=read_result(told.result) if told.HasField("result") else None,
            passed_over=read_passed_over(told.passed_over) if told.HasField("passed_over") else None,
        )
    summary = message.summary
    return _release_models.ReclaimSummary(
        goal_met=summary.goal_met,
        released_bytes=summary.released_bytes,
        candidates_killed=summary.candidates_killed,
        candidates_passed_over=summary.candidates_passed_over,
        node_memory_before=read_node_memory(summary.node_memory_before) if summary.HasField("node_memory_before") else None,
        node_memory_after=read_node_memory(summary.node_memory_after) if summary.HasField("node_memory_after") else None,
        node=read_node_ref(summary.node),
    )


def read_passed_over(message: release_service_pb2.PassedOver) -> _release_models.PassedOver:
    known = message.reason in error_reason_pb2.ErrorReason.values()
    reason = error_reason_pb2.ErrorReason.Name(message.reason).removeprefix("ERROR_REASON_") if known else f"UNKNOWN_{int(message.reason)}"
    return _release_models.PassedOver(reason, message.message, message.remedy)


def read_unreleased(message: result_pb2.Unreleased) -> _models.Unreleased:
    return _models.Unreleased(_enums.UnreleasedCause(message.cause), message.size_bytes)


def read_cgroup(message: memory_pb2.CgroupMemory) -> _models.CgroupMemory:
    return _models.CgroupMemory(path=message.path, before_bytes=message.before_bytes, after_bytes=message.after_bytes)


def read_node(message: node_service_pb2.Node) -> _models.Node:
    return _models.Node(
        identity=read_node_ref(message.identity),
        kernel_release=message.kernel_release,
        machine=message.machine,
        agent_version=message.agent_version,
        agent_start_time=read_timestamp(message.agent_start_time) if message.HasField("agent_start_time") else None,
        agent_uid=message.agent_uid,
        capabilities=tuple(_models.Capability(_enums.Feature(c.feature), c.available, c.reason, c.remedy) for c in message.capabilities),
        memory=read_node_memory(message.memory) if message.HasField("memory") else None,
        target_kinds=tuple(_models.TargetKind(k.kind, k.available, k.reason, k.remedy) for k in message.target_kinds),
    )


def read_process_info(message: node_service_pb2.ProcessInfo) -> _models.ProcessInfo:
    return _models.ProcessInfo(
        process=read_process(message.process),
        command=message.command,
        uid=message.uid,
        state=message.state,
        threads=message.threads,
        memory=read_process_memory(message.memory),
        reclaimable_bytes=message.reclaimable_bytes,
        cgroup=message.cgroup,
        protection=message.protection,
        container_id=message.container_id,
        pod_uid=message.pod_uid,
        qos=_enums.QosClass(message.qos),
        unreleased=tuple(map(read_unreleased, message.unreleased)),
        sharing_pids=tuple(message.sharing_pids),
    )


def read_timestamp(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=timezone.utc)


def read_duration(message: Duration) -> timedelta:
    return message.ToTimedelta()
