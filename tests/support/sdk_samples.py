"""Sample values of the SDK, and messages with every field set."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

import mrelease
from mrelease import _calls
from mrelease.v1 import release_service_pb2

GIB = 1 << 30

_REQUEST: dict[str, Any] = {
    "node": None,
    "wait": mrelease.Wait.RELEASED,
    "timeout": 1,
    "reason": "",
    "validate_only": False,
    "request_id": "",
    "boost": mrelease.Boost.UNSPECIFIED,
}

MessageT = TypeVar("MessageT", bound=Message)


def kill_call(
    target: mrelease.Target | None = None, **changes: Any
) -> _calls.Call[release_service_pb2.KillAndReleaseResponse, mrelease.ReleaseResult]:
    """A call of KillAndRelease with the defaults, and what a test changes of them."""
    fields: dict[str, Any] = {"reap_delay": None, "grace_period": 0.0, "signal": ""}
    return _calls.kill_and_release(target or mrelease.Process(1), **(_REQUEST | fields | changes))


def release_call(
    target: mrelease.Target | None = None, **changes: Any
) -> _calls.Call[release_service_pb2.ReleaseResponse, mrelease.ReleaseResult]:
    """A call of Release with the defaults, and what a test changes of them."""
    return _calls.release(target or mrelease.Process(1), **(_REQUEST | changes))


def process_result(pid: int = 4711, **changes: Any) -> mrelease.ProcessResult:
    """A process that was released, with what a test changes of it."""
    fields: dict[str, Any] = {
        "process": mrelease.Process(pid, pidfd_inode=99, start_time_ticks=7),
        "command": "trainer",
        "outcome": mrelease.Outcome.RELEASED,
        "step": mrelease.Step.RELEASE,
        "errno_name": "",
        "errno_number": 0,
        "memory_before": mrelease.ProcessMemory(anon_bytes=GIB),
        "memory_after": mrelease.ProcessMemory(),
        "released_bytes": GIB,
        "proof": mrelease.Proof.RELEASE,
        "unreleased": (),
        "kill_time": None,
        "release_duration": timedelta(milliseconds=13),
        "exit_duration": timedelta(milliseconds=90),
        "release_attempts": 1,
        "cause": "",
        "remedy": "",
        "state": "",
        "wchan": "",
        "sharing_pids": (),
        "cgroup": None,
        "boost": mrelease.Boost.UNSPECIFIED,
        "held_cause": mrelease.HeldCause.UNSPECIFIED,
        "tracer_pid": 0,
        "reader_pids": (),
    }
    return mrelease.ProcessResult(**(fields | changes))


def release_result(
    *processes: mrelease.ProcessResult, verdict: mrelease.Verdict = mrelease.Verdict.RELEASED, **changes: Any
) -> mrelease.ReleaseResult:
    """A result with these processes, or one that was released, with what a test changes of it."""
    processes = processes or (process_result(),)
    fields: dict[str, Any] = {
        "verdict": verdict,
        "released_bytes": sum(p.released_bytes for p in processes),
        "processes": processes,
        "node": mrelease.NodeRef("n7", "boot"),
        "node_memory_before": None,
        "node_memory_after": None,
        "cgroups": (),
        "unreleased": (),
        "request_id": "",
        "replayed": False,
    }
    return mrelease.ReleaseResult(**(fields | changes))


def process_info(**changes: Any) -> mrelease.ProcessInfo:
    """A listed process, with what a test changes of it."""
    fields: dict[str, Any] = {
        "process": mrelease.Process(4711, 99, 7),
        "command": "trainer",
        "uid": 0,
        "state": "S",
        "threads": 1,
        "memory": mrelease.ProcessMemory(),
        "reclaimable_bytes": 0,
        "cgroup": "/",
        "protection": "",
        "container_id": "",
        "pod_uid": "",
        "qos": mrelease.QosClass.UNSPECIFIED,
        "unreleased": (),
        "sharing_pids": (),
    }
    return mrelease.ProcessInfo(**(fields | changes))


def full_message(kind: type[MessageT]) -> MessageT:
    """A message with every field of every message in it set, each number different, each list with one entry."""
    message = kind()
    _fill(message, iter(range(1, 1000)))
    return message


def _fill(message: Message, numbers: Any) -> None:
    if isinstance(message, Timestamp):
        message.FromJsonString("2026-01-02T03:04:05.678900Z")
        return
    if isinstance(message, Duration):
        message.FromJsonString("1.250s")
        return
    for field in message.DESCRIPTOR.fields:
        number = next(numbers)
        inner = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            _fill(inner.add() if field.is_repeated else inner, numbers)
            continue
        if field.type == FieldDescriptor.TYPE_ENUM:
            assert field.enum_type is not None
            value: Any = field.enum_type.values[1].number
        else:
            value = {FieldDescriptor.TYPE_STRING: f"{field.name}{number}", FieldDescriptor.TYPE_BOOL: True}.get(field.type, number)
        if field.is_repeated:
            inner.append(value)
        else:
            setattr(message, field.name, value)
