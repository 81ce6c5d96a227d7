"""Requests are hostile until they have been through here: every field in its range, none that this agent does not know."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mrelease._version import VERSION
from mrelease.v1 import error_reason_pb2, memory_pb2, node_service_pb2, outcome_pb2, release_service_pb2, target_pb2
from mrelease_agent.linux.process import PID_MAX
from mrelease_agent.rpc.errors import OLDER, RpcError, invalid
from mrelease_agent.targets.plugin_names import KIND, MAX_ATTRIBUTES, MAX_VALUE, NAME

#: Longest `reason`, in bytes of UTF-8.
MAX_REASON: Final = 1024
#: Most candidates of a Reclaim.
MAX_CANDIDATES: Final = 1000
SIGTERM: Final = int(signal.SIGTERM)
_MAX_NAME: Final = 253
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SIGNALS: Final = {found.name: int(found) for found in signal.Signals}
_OFFSETS: Final = frozenset(map(str, range(1, 31)))
#: SIGKILL would end the grace before it began; what stops a process keeps it from ending.
_NEVER: Final = frozenset({signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})

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
            raise RpcError(
                error_reason_pb2.ERROR_REASON_INVALID_FIELD,
                f"{field} is not known to this agent, version {VERSION}",
                OLDER,
                field=field,
                agent_version=VERSION,
            )


def _messages(message: Message, path: str) -> Iterator[tuple[str, Message]]:
    yield path, message
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if isinstance(value, Message):
            yield from _messages(value, f"{path}{field.name}.")
            continue
        for index, element in enumerate(value):
            if isinstance(element, Message):  # else it is the key of a map, which is one of texts
                yield from _messages(element, f"{path}{field.name}[{index}].")


def request(message: KillOrRelease, *, max_timeout: float) -> None:
    """Check every field of a KillAndRelease or Release request but the identity, which the process itself decides.

    Raises RpcError (INVALID_ARGUMENT) naming the field.
    """
    _target("target", message.target)
    _node(message.node)
    if message.wait not in outcome_pb2.Wait.values():
        raise invalid("wait", f"is {int(message.wait)}, which is no Wait", "use WAIT_RELEASED or WAIT_EXITED")
    if message.request_id:
        _request_id(message.request_id)
    _boost(message.boost)
    if isinstance(message, release_service_pb2.KillAndReleaseRequest):
        _how_to_kill(message, max_timeout)
    elif message.boost == outcome_pb2.BOOST_EVACUATION:
        raise invalid("boost", "is BOOST_EVACUATION", "Release is too late for it: use BOOST_LIFT, or leave it out")
    _timeout(message, max_timeout)
    _text("reason", message.reason, MAX_REASON)


def watch(message: release_service_pb2.WatchReleaseRequest) -> None:
    """Check a WatchRelease request. Raises RpcError (INVALID_ARGUMENT)."""
    _request_id(message.request_id)
    if message.HasField("interval"):
        interval = _seconds("interval", message.interval)
        if not 0.01 <= interval <= 60:
            raise invalid("interval", f"is {interval:g}s", "use 0.01s to 60s")


def reclaim(message: release_service_pb2.ReclaimRequest, *, max_timeout: float) -> None:
    """Check every field of a Reclaim request. Raises RpcError (INVALID_ARGUMENT)."""
    if not 1 <= len(message.candidates) <= MAX_CANDIDATES:
        raise invalid("candidates", f"has {len(message.candidates)} entries", f"give 1 to {MAX_CANDIDATES}")
    for index, candidate in enumerate(message.candidates):
        _target(f"candidates[{index}]", candidate)
    _goal(message.goal)
    _node(message.node)
    _boost(message.boost)
    _how_to_kill(message, max_timeout)
    _timeout(message, max_timeout)
    _text("reason", message.reason, MAX_REASON)


def grace(message: release_service_pb2.KillAndReleaseRequest | release_service_pb2.ReclaimRequest) -> tuple[float, int]:
    """Grace period in seconds, and the number of its signal, of a checked request."""
    return message.grace_period.ToNanoseconds() / 1e9, _signal(message.signal)


def page(page_size: int, uid: int | None) -> None:
    """Check the numbers of a ListProcesses request. Raises RpcError (INVALID_ARGUMENT)."""
    if not 0 <= page_size <= 1000:
        raise invalid("page_size", f"is {page_size}", "use 0 to 1000")
    if uid is not None and not 0 <= uid < 2**32:
        raise invalid("uid", f"is {uid}", "use 0 to 4294967295")


def within(target: target_pb2.Target) -> None:
    """Check where processes are to be listed. Raises RpcError (INVALID_ARGUMENT)."""
    if target.WhichOneof("kind") in (None, "process"):
        raise invalid("within", "is no container, pod, cgroup or custom target", "set one of within.container, .pod, .cgroup and .custom")
    _target("within", target)


def watch_memory(message: node_service_pb2.WatchMemoryRequest) -> tuple[float | None, float, float]:
    """Check a WatchMemory request; its interval (None: none), and stall and window of its trigger (0 without one), in seconds.

    Raises RpcError (INVALID_ARGUMENT).
    """
    interval = None if message.HasField("trigger") else 1.0
    if message.HasField("interval"):
        interval = _seconds("interval", message.interval)
        if not 0.1 <= interval <= 3600:
            raise invalid("interval", f"is {interval:g}s", "use 0.1s to 3600s")
    if message.HasField("within") and message.within.WhichOneof("kind") not in ("container", "cgroup"):
        raise invalid("within", "is no container or cgroup", "set within.container or within.cgroup")
    if not message.HasField("trigger"):
        return interval, 0.0, 0.0
    trigger = message.trigger
    if trigger.kind not in memory_pb2.PressureKind.values():
        raise invalid("trigger.kind", f"is {int(trigger.kind)}, which is no PressureKind", "use PRESSURE_KIND_SOME or PRESSURE_KIND_FULL")
    window = _seconds("trigger.window", trigger.window)
    if not 0.5 <= window <= 10:
        raise invalid("trigger.window", f"is {window:g}s", "use 0.5s to 10s")
    stall = _seconds("trigger.stall", trigger.stall)
    if not 0 < stall <= window:
        raise invalid("trigger.stall", f"is {stall:g}s", f"use more than 0s and at most the window, {window:g}s")
    return interval, stall, window


def _target(field: str, target: target_pb2.Target) -> None:
    if target.WhichOneof("kind") is None:
        raise invalid(field, "is missing", f"set {field}.process.pid, or one of container, pod, cgroup and custom")
    if target.HasField("process"):
        _process(f"{field}.process", target.process)
    elif target.HasField("custom"):
        _custom(f"{field}.custom", target.custom)


def _node(node: target_pb2.NodePrecondition) -> None:
    for name in ("name", "boot_id"):
        _text(f"node.{name}", getattr(node, name), _MAX_NAME)


def _how_to_kill(message: release_service_pb2.KillAndReleaseRequest | release_service_pb2.ReclaimRequest, max_timeout: float) -> None:
    if message.HasField("reap_delay"):
        delay = _seconds("reap_delay", message.reap_delay)
        if not 0 <= delay <= 1:
            raise invalid("reap_delay", f"is {delay:g}s", "use 0s to 1s")
    period = 0.0
    if message.HasField("grace_period"):
        period = _seconds("grace_period", message.grace_period)
        if not 0 <= period <= max_timeout:
            raise invalid("grace_period", f"is {period:g}s", f"use 0s to {max_timeout:g}s")
    if message.signal:
        if not period:
            raise invalid("signal", "is set without a grace period", "set grace_period too: SIGKILL comes at its end")
        _signal(message.signal)


def _signal(name: str) -> int:
    """Number of a signal named as in signal(7)."""
    if not name:
        return SIGTERM
    base, plus, offset = name.partition("+")
    number = _SIGNALS.get(base, 0)
    if plus:
        number = number + int(offset) if base == "SIGRTMIN" and offset in _OFFSETS else 0
    if not number or number in _NEVER or number > signal.SIGRTMAX:
        raise invalid(
            "signal", "is none that asks a process to end", "use a name of signal(7) such as SIGTERM, SIGINT, SIGRTMIN+3; not SIGKILL"
        )
    return number


def _boost(boost: outcome_pb2.Boost.ValueType) -> None:
    if boost not in outcome_pb2.Boost.values():
        raise invalid("boost", f"is {int(boost)}, which is no Boost", "use BOOST_NONE to turn it off, or leave it out")


def _request_id(request_id: str) -> None:
    if not _REQUEST_ID.fullmatch(request_id):
        raise invalid("request_id", "is empty or no id", "use 1 to 128 letters, digits and any of - _ . : such as a UUID")


def _timeout(message: KillOrRelease | release_service_pb2.ReclaimRequest, max_timeout: float) -> None:
    if message.HasField("timeout"):
        timeout = _seconds("timeout", message.timeout)
        if not 0 < timeout <= max_timeout:
            raise invalid("timeout", f"is {timeout:g}s", f"use more than 0s and at most {max_timeout:g}s")


def _goal(goal: release_service_pb2.ReclaimGoal) -> None:
    kind = goal.WhichOneof("kind")
    if kind is None:
        raise invalid("goal", "is missing", "set goal.released_bytes, goal.available_bytes or goal.pressure_below")
    if kind == "pressure_below":
        if goal.pressure_below.kind not in memory_pb2.PressureKind.values():
            raise invalid("goal.pressure_below.kind", "is no PressureKind", "use PRESSURE_KIND_SOME or PRESSURE_KIND_FULL")
        if not 0 < goal.pressure_below.percent <= 100:
            raise invalid("goal.pressure_below.percent", f"is {goal.pressure_below.percent:g}", "use more than 0 and at most 100")
        if goal.pressure_below.HasField("window"):
            window = _seconds("goal.pressure_below.window", goal.pressure_below.window)
            if not 0.1 <= window <= 10:
                raise invalid("goal.pressure_below.window", f"is {window:g}s", "use 0.1s to 10s")
    elif getattr(goal, kind) <= 0:
        raise invalid(f"goal.{kind}", f"is {getattr(goal, kind)}", "use more than 0")


def _process(field: str, process: target_pb2.ProcessTarget) -> None:
    if not 1 <= process.pid <= PID_MAX:
        raise invalid(f"{field}.pid", f"is {process.pid}", f"use 1 to {PID_MAX}; process groups (0 and below) are no target")
    for name in ("pidfd_inode", "start_time_ticks"):
        value = getattr(process, name)
        if value < 0:
            raise invalid(f"{field}.{name}", f"is {value}", "use what ListProcesses gave, or 0")


def _custom(field: str, custom: target_pb2.CustomTarget) -> None:
    if not KIND.fullmatch(custom.kind):
        remedy = "use a lower-case letter, then up to 31 letters, digits and -; GetNode lists the agent's kinds"
        raise invalid(f"{field}.kind", "is no kind of target", remedy)
    if len(custom.attributes) > MAX_ATTRIBUTES:
        raise invalid(f"{field}.attributes", f"has {len(custom.attributes)} entries", f"give at most {MAX_ATTRIBUTES}")
    for name, value in sorted(custom.attributes.items()):
        if not NAME.fullmatch(name):
            remedy = "use a lower-case letter, then up to 31 letters, digits, - and _"
            raise invalid(f"{field}.attributes", "has a key that is no name of an attribute", remedy)
        if not value:
            raise invalid(f'{field}.attributes["{name}"]', "is empty", "as of a variable that is not set: write it out, or leave it out")
        _text(f'{field}.attributes["{name}"]', value, MAX_VALUE)


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
