"""Requests are hostile until they have been through here: every field in its range, none that this agent does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mrelease.v1 import outcome_pb2, release_service_pb2, target_pb2
from mrelease_agent.linux.process import PID_MAX
from mrelease_agent.rpc.errors import invalid

#: Longest `reason`, in bytes of UTF-8.
MAX_REASON: Final = 1024
_MAX_NAME: Final = 253

KillOrRelease = release_service_pb2.KillAndReleaseRequest | release_service_pb2.ReleaseRequest


def known(request: Message) -> None:
    """Refuse fields that this agent does not know.

    protobuf ignores them, but one that a newer client relies on may be a condition: without it, more would be killed than was asked for.

    Raises RpcError (INVALID_ARGUMENT) naming the field by the message that it is in and its number.
    """
    for path, message in _messages(request, ""):
        unknown_fields: Any = UnknownFieldSet(message)  # its stub has no iteration
        for unknown in unknown_fields:
            field = f"{path}{unknown.field_number}"
            raise invalid(field, "is not known to this agent", "use a client of the agent's version, or upgrade the agent")


def _messages(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    yield path, message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _messages(value, f"{path}{field.name}.")


def request(message: KillOrRelease, *, max_timeout: float) -> None:
    """Check every field of a KillAndRelease or Release request but the identity, which the process itself decides.

    Raises RpcError (INVALID_ARGUMENT) naming the field.
    """
    if message.target.WhichOneof("kind") is None:
        raise invalid("target", "is missing", "set target.process.pid, or one of container, pod and cgroup")
    if message.target.HasField("process"):
        _process(message.target.process)
    for name in ("name", "boot_id"):
        _text(f"node.{name}", getattr(message.node, name), _MAX_NAME)
    if message.wait not in outcome_pb2.Wait.values():
        raise invalid("wait", f"is {int(message.wait)}, which is no Wait", "use WAIT_RELEASED or WAIT_EXITED")
    if message.HasField("timeout"):
        timeout = _seconds("timeout", message.timeout)
        if not 0 < timeout <= max_timeout:
            raise invalid("timeout", f"is {timeout:g}s", f"use more than 0s and at most {max_timeout:g}s")
    if isinstance(message, release_service_pb2.KillAndReleaseRequest) and message.HasField("reap_delay"):
        delay = _seconds("reap_delay", message.reap_delay)
        if not 0 <= delay <= 1:
            raise invalid("reap_delay", f"is {delay:g}s", "use 0s to 1s")
    _text("reason", message.reason, MAX_REASON)


def page(page_size: int, uid: int | None) -> None:
    """Check the numbers of a ListProcesses request. Raises RpcError (INVALID_ARGUMENT)."""
    if not 0 <= page_size <= 1000:
        raise invalid("page_size", f"is {page_size}", "use 0 to 1000")
    if uid is not None and not 0 <= uid < 2**32:
        raise invalid("uid", f"is {uid}", "use 0 to 4294967295")


def _process(process: target_pb2.ProcessTarget) -> None:
    if not 1 <= process.pid <= PID_MAX:
        raise invalid("target.process.pid", f"is {process.pid}", f"use 1 to {PID_MAX}; process groups (0 and below) are no target")
    for name in ("pidfd_inode", "start_time_ticks"):
        value = getattr(process, name)
        if value < 0:
            raise invalid(f"target.process.{name}", f"is {value}", "use what ListProcesses gave, or 0")


def _seconds(field: str, duration: duration_pb2.Duration) -> float:
    if not (-315_576_000_000 <= duration.seconds <= 315_576_000_000 and abs(duration.nanos) < 1_000_000_000):
        raise invalid(field, "is no valid google.protobuf.Duration", "use seconds within +-10,000 years and nanos below 1e9")
    if duration.seconds * duration.nanos < 0:
        raise invalid(field, "has seconds and nanos of different signs", "give both the same sign")
    return duration.seconds + duration.nanos / 1e9


def _text(field: str, text: str, limit: int) -> None:
    size = len(text.encode())
    if size > limit:
        raise invalid(field, f"has {size} bytes", f"use at most {limit}")
    if not text.isprintable():
        raise invalid(field, "has control characters", "use printable characters only")
