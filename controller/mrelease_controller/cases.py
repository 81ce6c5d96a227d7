"""Which pods concern the controller, and from when on: pure functions of what the API server says. Times are seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mrelease_controller.config import Settings
from mrelease_controller.modes import Mode
from mrelease_controller.objects import ContainerStatus, Pod, Terminated

#: How long a dead container, or a pod whose object is gone, is looked after.
RECENT: Final = 600.0
# A container that SIGKILL has ended, or of whose end kubelet knows nothing more.
_KILLED: Final = 128 + 9
_REASONS: Final = ("OOMKilled", "ContainerStatusUnknown")


class Kind(Enum):
    """Why memory should be back."""

    TERMINATING = "terminating"  # the pod is past its grace period
    CONTAINER = "container"  # kubelet, or the OOM killer, has killed the container
    DELETED = "deleted"  # the pod's object is gone, as after a delete by force


@dataclass(frozen=True, slots=True)
class Case:
    """Something whose memory should be back by ``since``. ``container``: its id; empty: the whole pod."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    node: str
    since: float
    container: str = ""

    @property
    def key(self) -> str:
        """What tells it from others: of pods, and of containers, no identity is ever used again."""
        return self.container or self.uid

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.namespace}/{self.name}"


def cases(pod: Pod, settings: Settings, now: float) -> Iterator[Case]:
    """What of a pod concerns the controller. Static pods do not: their object is a mirror, whose deletion ends nothing."""
    metadata, annotations = pod.metadata, pod.metadata.annotations
    if not pod.spec.nodeName or (annotations is not None and annotations.mirror is not None):
        return
    if metadata.deletionTimestamp is not None:
        yield _case(pod, Kind.TERMINATING, metadata.deletionTimestamp.timestamp())
    elif settings.containers:
        for dead in _dead(pod):
            if dead.finishedAt is not None and now - dead.finishedAt.timestamp() < RECENT:
                yield _case(pod, Kind.CONTAINER, dead.finishedAt.timestamp(), _id(dead.containerID))


def deleted(pod: Pod, now: float) -> Case | None:
    """The case of a pod whose object is gone; None where kubelet has said that all of it ended."""
    annotations = pod.metadata.annotations
    if not pod.spec.nodeName or (annotations is not None and annotations.mirror is not None):
        return None
    started = [status for status in pod.status.containers if status.containerID]
    if all(status.state.terminated is not None for status in started):
        return None
    end = pod.metadata.deletionTimestamp
    return _case(pod, Kind.DELETED, now if end is None else max(now, end.timestamp()))


def due(case: Case, settings: Settings) -> float:
    """From when on somebody looks after it."""
    return case.since + settings.margin


def may_kill(case: Case, mode: Mode, settings: Settings, now: float) -> bool:
    """Whether what of it still runs may be killed: of Terminating pods alone, past its own margin, and where that is allowed."""
    return case.kind is Kind.TERMINATING and mode is Mode.KILL and now >= case.since + settings.kill_margin


def _dead(pod: Pod) -> Iterator[Terminated]:
    for status in pod.status.containers:
        for ended in (status.state.terminated, status.lastState.terminated):
            if ended is not None and _was_killed(ended) and _is_over(ended, status):
                yield ended


def _was_killed(ended: Terminated) -> bool:
    return bool(ended.containerID) and (ended.exitCode == _KILLED or ended.reason in _REASONS)


def _is_over(ended: Terminated, status: ContainerStatus) -> bool:
    """Not the container that runs now: kubelet may write down the old end beside it."""
    return status.state.terminated is not None or ended.containerID != status.containerID


def _case(pod: Pod, kind: Kind, since: float, container: str = "") -> Case:
    metadata = pod.metadata
    return Case(kind, metadata.namespace, metadata.name, metadata.uid, pod.spec.nodeName, since, container)


def _id(container: str) -> str:
    """Without the runtime's name: containerd://0123..."""
    return container.rpartition("://")[2]
