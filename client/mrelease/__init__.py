"""When something must die so that its memory can be used: make the memory come back now, and prove it.

>>> from mrelease import Client, Process
>>> with Client() as node:
...     result = node.kill_and_release(Process(4711), reason="preempted by job 99")

The exceptions are drawn in ``mrelease.errors``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mrelease._version import VERSION as __version__  # noqa: N811

if TYPE_CHECKING:
    from mrelease import errors
    from mrelease._async_client import AsyncClient
    from mrelease._client import Client
    from mrelease._enums import Boost, Feature, HeldCause, Outcome, PressureKind, Proof, QosClass, Step, UnreleasedCause, Verdict, Wait
    from mrelease._fleet import AsyncFleet
    from mrelease._fleet_blocking import Fleet
    from mrelease._fleet_models import FleetAnswer, FleetRequest, Member
    from mrelease._memory_models import MemoryPressure, MemorySample, PressureStall, PressureTrigger, WatchedCgroup
    from mrelease._models import (
        Capability,
        Cgroup,
        CgroupMemory,
        Container,
        Custom,
        Node,
        NodeMemory,
        NodeRef,
        Pod,
        Process,
        ProcessInfo,
        ProcessList,
        ProcessMemory,
        ProcessResult,
        ReleaseResult,
        Target,
        TargetKind,
        Unreleased,
    )
    from mrelease._release_models import (
        PassedOver,
        PressureGoal,
        ReclaimedCandidate,
        ReclaimEvent,
        ReclaimStarted,
        ReclaimSummary,
        ReleaseProgress,
    )
    from mrelease._tls import TLS
    from mrelease._trace import trace_context
    from mrelease.errors import AgentError, MreleaseError, NotReleased

# Each is imported when it is first asked for: the agent needs the contract of this package and none of these.
_HOMES = {
    "mrelease._async_client": ("AsyncClient",),
    "mrelease._client": ("Client",),
    "mrelease._enums": (
        "Boost",
        "Feature",
        "HeldCause",
        "Outcome",
        "PressureKind",
        "Proof",
        "QosClass",
        "Step",
        "UnreleasedCause",
        "Verdict",
        "Wait",
    ),
    "mrelease._fleet": ("AsyncFleet",),
    "mrelease._fleet_blocking": ("Fleet",),
    "mrelease._fleet_models": ("FleetAnswer", "FleetRequest", "Member"),
    "mrelease._memory_models": ("MemoryPressure", "MemorySample", "PressureStall", "PressureTrigger", "WatchedCgroup"),
    "mrelease._models": (
        "Capability",
        "Cgroup",
        "CgroupMemory",
        "Container",
        "Custom",
        "Node",
        "NodeMemory",
        "NodeRef",
        "Pod",
        "Process",
        "ProcessInfo",
        "ProcessList",
        "ProcessMemory",
        "ProcessResult",
        "ReleaseResult",
        "Target",
        "TargetKind",
        "Unreleased",
    ),
    "mrelease._release_models": (
        "PassedOver",
        "PressureGoal",
        "ReclaimedCandidate",
        "ReclaimEvent",
        "ReclaimStarted",
        "ReclaimSummary",
        "ReleaseProgress",
    ),
    "mrelease._tls": ("TLS",),
    "mrelease._trace": ("trace_context",),
    "mrelease.errors": ("AgentError", "MreleaseError", "NotReleased"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """See PEP 562."""
    if name == "errors":
        return importlib.import_module("mrelease.errors")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """Everything public, imported or not."""
    return sorted({*globals(), *__all__})


__all__ = [
    # clients
    "Client",
    "AsyncClient",
    "TLS",
    # many agents at once
    "Fleet",
    "AsyncFleet",
    "Member",
    "FleetRequest",
    "FleetAnswer",
    # in whose trace
    "trace_context",
    # what to kill, where
    "Target",
    "Process",
    "Container",
    "Pod",
    "Cgroup",
    "Custom",
    "NodeRef",
    "Wait",
    "Boost",
    # what became of it
    "ReleaseResult",
    "ProcessResult",
    "Verdict",
    "Outcome",
    "Step",
    "Proof",
    "Unreleased",
    "UnreleasedCause",
    "HeldCause",
    "ProcessMemory",
    "CgroupMemory",
    "NodeMemory",
    # an operation on its way
    "ReleaseProgress",
    # never two when one is enough
    "ReclaimEvent",
    "ReclaimStarted",
    "ReclaimedCandidate",
    "ReclaimSummary",
    "PassedOver",
    "PressureGoal",
    # the node and its processes
    "Node",
    "Capability",
    "Feature",
    "TargetKind",
    "ProcessList",
    "ProcessInfo",
    "QosClass",
    # its memory as it is watched
    "MemorySample",
    "MemoryPressure",
    "PressureStall",
    "PressureTrigger",
    "PressureKind",
    "WatchedCgroup",
    # errors
    "errors",
    "MreleaseError",
    "AgentError",
    "NotReleased",
    # version of the SDK
    "__version__",
]
