"""The agent's plain values as the contract's messages."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2, timestamp_pb2

from mrelease.v1 import memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2
from mrelease_agent.linux.capabilities import Capability
from mrelease_agent.linux.node import NodeMemory
from mrelease_agent.linux.process import Identity
from mrelease_agent.linux.procfs import Memory
from mrelease_agent.reaping.outcome import Outcome, verdict
from mrelease_agent.reaping.progress import Look
from mrelease_agent.reaping.report import Charge, Done, Report

if TYPE_CHECKING:
    from mrelease_agent.targets.plugin_kinds import Offer


def result(
    done: Done, node: result_pb2.NodeIdentity, before: NodeMemory | None, after: NodeMemory | None, *, inode_known: bool
) -> result_pb2.ReleaseResult:
    """The result for a whole target."""
    pinned = [Outcome.PARTIAL] if done.pinned else []
    return result_pb2.ReleaseResult(
        verdict=outcome_pb2.Verdict.ValueType(verdict([*(report.outcome for report in done.reports), *pinned])),
        released_bytes=done.released,
        processes=[_process_result(report, inode_known=inode_known) for report in done.reports],
        node=node,
        node_memory_before=None if before is None else node_memory(before),
        node_memory_after=None if after is None else node_memory(after),
        cgroups=[_charge(charge) for charge in done.charges],
        unreleased=[
            result_pb2.Unreleased(cause=outcome_pb2.UNRELEASED_CAUSE_SHMEM, size_bytes=charge.shmem)
            for charge in done.charges
            if charge.shmem
        ]
        + [result_pb2.Unreleased(cause=outcome_pb2.UNRELEASED_CAUSE_HELD, size_bytes=done.pinned) for _ in pinned],
    )


def progress(look: Look) -> release_service_pb2.ReleaseProgress:
    """How far an operation is."""
    return release_service_pb2.ReleaseProgress(
        before_bytes=look.before,
        held_bytes=look.held,
        processes=look.processes,
        processes_done=look.done,
        elapsed_duration=duration(look.elapsed),
    )


def _charge(charge: Charge) -> memory_pb2.CgroupMemory:
    after = charge.before if charge.after is None else charge.after
    return memory_pb2.CgroupMemory(path=_text(charge.path), before_bytes=charge.before, after_bytes=after)


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _process_result(report: Report, *, inode_known: bool) -> result_pb2.ProcessResult:
    message = result_pb2.ProcessResult(
        process=process_target(report.process, inode_known=inode_known),
        command=report.process.command,
        outcome=outcome_pb2.Outcome.ValueType(report.outcome),
        step=outcome_pb2.Step.ValueType(report.step),
        errno_name=errno.errorcode.get(report.errno, str(report.errno)) if report.errno else "",
        errno_number=report.errno,
        memory_before=None if report.before is None else process_memory(report.before),
        memory_after=None if report.after is None else process_memory(report.after),
        released_bytes=report.released,
        proof=outcome_pb2.Proof.ValueType(report.proof),
        unreleased=[
            result_pb2.Unreleased(cause=outcome_pb2.UnreleasedCause.ValueType(cause), size_bytes=size)
            for cause, size in report.unreleased.items()
        ],
        release_attempts=report.attempts,
        cause=report.cause,
        remedy=report.remedy,
        state=report.state,
        wchan=report.wchan,
        sharing_pids=report.sharers,
        boost=outcome_pb2.Boost.ValueType(report.boost),
        held_cause=outcome_pb2.HeldCause.ValueType(report.held_cause),
        tracer_pid=report.tracer,
        reader_pids=report.readers,
    )
    if report.kill_time:
        message.kill_time.CopyFrom(timestamp(report.kill_time))
    if report.release_duration is not None:
        message.release_duration.CopyFrom(duration(report.release_duration))
    if report.exit_duration is not None:
        message.exit_duration.CopyFrom(duration(report.exit_duration))
    if report.cgroup_path is not None:
        message.cgroup.path = _text(report.cgroup_path)
        message.cgroup.before_bytes = report.cgroup_before
        message.cgroup.after_bytes = report.cgroup_after
    return message


def process_target(process: Identity, *, inode_known: bool) -> target_pb2.ProcessTarget:
    """The identity to kill a process by; an inode number that identifies nothing is left out."""
    return target_pb2.ProcessTarget(pid=process.pid, pidfd_inode=process.inode if inode_known else 0, start_time_ticks=process.start_time)


def process_memory(memory: Memory) -> memory_pb2.ProcessMemory:
    """Memory of a process."""
    return memory_pb2.ProcessMemory(
        anon_bytes=memory.anon,
        file_bytes=memory.file,
        shmem_bytes=memory.shmem,
        swap_bytes=memory.swap,
        hugetlb_bytes=memory.hugetlb,
        page_table_bytes=memory.page_table,
    )


def node_memory(memory: NodeMemory) -> memory_pb2.NodeMemory:
    """Memory of the node."""
    return memory_pb2.NodeMemory(
        total_bytes=memory.total,
        free_bytes=memory.free,
        available_bytes=memory.available,
        swap_total_bytes=memory.swap_total,
        swap_free_bytes=memory.swap_free,
    )


def capability(found: Capability) -> node_service_pb2.Capability:
    """One capability of the node."""
    return node_service_pb2.Capability(
        feature=node_service_pb2.Feature.ValueType(found.feature),
        available=found.available,
        reason=found.reason,
        remedy=found.remedy,
    )


def target_kind(offer: Offer) -> node_service_pb2.TargetKind:
    """One kind of custom target."""
    return node_service_pb2.TargetKind(kind=offer.kind, available=offer.available, reason=offer.reason, remedy=offer.remedy)


def duration(seconds: float) -> duration_pb2.Duration:
    """google.protobuf.Duration to the nanosecond, from seconds of at least 0."""
    whole = int(seconds)
    return duration_pb2.Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    """google.protobuf.Timestamp to the microsecond, from seconds since the epoch."""
    return timestamp_pb2.Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e6) * 1000)
