"""Objects of the API server, with only the fields that matter here: of ten thousand pods nothing else is ever made."""

# ruff: noqa: N815 - lightkube reads metadata.resourceVersion; the other names are the API's, too

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec
from lightkube import generic_resource
from lightkube.core.resource import ApiInfo, GlobalResource, NamespacedResourceG, ResourceDef

_WATCHED: Final = ["get", "list", "watch", "global_list", "global_watch"]


class Annotations(msgspec.Struct, frozen=True):
    """Those that matter."""

    mirror: str | None = msgspec.field(default=None, name="kubernetes.io/config.mirror")
    release: str | None = msgspec.field(default=None, name="mrelease.dev/release")


class Metadata(msgspec.Struct, frozen=True):
    """ObjectMeta. ``deletionTimestamp``: when the grace period of a pod ends, which is not when its deletion was asked for."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    deletionTimestamp: datetime | None = None
    annotations: Annotations | None = None


class Terminated(msgspec.Struct, frozen=True):
    """ContainerStateTerminated."""

    containerID: str = ""
    exitCode: int = 0
    reason: str = ""
    finishedAt: datetime | None = None


class State(msgspec.Struct, frozen=True):
    """ContainerState."""

    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    """ContainerStatus."""

    name: str = ""
    containerID: str = ""
    state: State = State()
    lastState: State = State()


class Status(msgspec.Struct, frozen=True):
    """PodStatus."""

    phase: str = ""
    containerStatuses: list[ContainerStatus] | None = None
    initContainerStatuses: list[ContainerStatus] | None = None
    ephemeralContainerStatuses: list[ContainerStatus] | None = None

    @property
    def containers(self) -> list[ContainerStatus]:
        """All of them."""
        return [*(self.containerStatuses or ()), *(self.initContainerStatuses or ()), *(self.ephemeralContainerStatuses or ())]


class Spec(msgspec.Struct, frozen=True):
    """PodSpec."""

    nodeName: str = ""


class Pod(NamespacedResourceG, msgspec.Struct, frozen=True):
    """A pod at one moment."""

    _api_info = ApiInfo(ResourceDef("", "v1", "Pod"), "pods", _WATCHED)
    metadata: Metadata
    spec: Spec = Spec()
    status: Status = Status()


class Namespace(GlobalResource, msgspec.Struct, frozen=True):
    """A namespace."""

    _api_info = ApiInfo(ResourceDef("", "v1", "Namespace"), "namespaces", ["get", "list", "watch"])
    metadata: Metadata


_generic: Any = generic_resource
#: These are read and written whole, as mappings.
Lease: Any = _generic.create_namespaced_resource("coordination.k8s.io", "v1", "Lease", "leases")
Event: Any = _generic.create_namespaced_resource("events.k8s.io", "v1", "Event", "events")
EndpointSlice: Any = _generic.create_namespaced_resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
