"""When something must die so that its memory can be used: make the memory come back now, and prove it.

>>> from mrelease import Client, Process
>>> with Client() as node:
...     result = node.kill_and_release(Process(4711), reason="preempted by job 99")

The exceptions are drawn in ``mrelease.errors``.
"""

from mrelease import errors
from mrelease._async_client import AsyncClient
from mrelease._client import Client
from mrelease._enums import Boost, Feature, HeldCause, Outcome, PressureKind, Proof, QosClass, Step, UnreleasedCause, Verdict, Wait
from mrelease._memory_models import MemoryPressure, MemorySample, PressureStall, PressureTrigger, WatchedCgroup
from mrelease._models import (
    Capability,
    Cgroup,
    CgroupMemory,
    Container,
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
from mrelease._version import VERSION as __version__  # noqa: N811
from mrelease.errors import AgentError, MreleaseError, NotReleased

__all__ = [
    # clients
    "Client",
    "AsyncClient",
    # what to kill, where
    "Target",
    "Process",
    "Container",
    "Pod",
    "Cgroup",
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
