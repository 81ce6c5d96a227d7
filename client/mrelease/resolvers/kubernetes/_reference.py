"""What a reference to Kubernetes says: ``k8s://namespace/pod``, ``.../container``, ``k8s://namespace?selector=app=x``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mrelease.errors import InvalidReference, NotPlaced, ReferenceNotFound
from mrelease.resolvers import Reference
from mrelease.resolvers.kubernetes._objects import PodObject

#: Kinds of workloads whose pods can be named by them, and how kubectl abbreviates them.
WORKLOADS: Final = {
    "deployment": ("deployments", "deploy"),
    "statefulset": ("statefulsets", "sts"),
    "daemonset": ("daemonsets", "ds"),
    "job": ("jobs",),
    "replicaset": ("replicasets", "rs"),
}
_KEYS: Final = ("selector", *WORKLOADS, "container", "uid", "context")
# RFC 1123 names of objects: what is none may be meant to be something else.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_FORMS: Final = "write k8s://NAMESPACE/POD[/CONTAINER], k8s://NAMESPACE?selector=... or k8s://NAMESPACE?deployment=NAME"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pods are meant: one by its ``pod`` name, those of a ``workload`` (kind, name), or those with the labels of ``selector``.

    ``namespace``: empty for all. ``container``: only this one of each. ``uid``: only if the pod of this name still is this one.
    """

    namespace: str
    pod: str = ""
    workload: tuple[str, str] | None = None
    selector: str = ""
    container: str = ""
    uid: str = ""
    context: str = ""

    @classmethod
    def of(cls, text: str) -> Wanted:
        """Read a reference. Raises InvalidReference."""
        ref = Reference.parse(text)
        ref.only(*_KEYS)
        for key, value in ref.query.items():
            if not value:
                raise InvalidReference(f"{text!r}: {key} is empty", "as of a variable that is not set: it would mean every pod")
        workloads = [(kind, ref.query[kind]) for kind in WORKLOADS if kind in ref.query]
        namespace, pod, container = (*ref.parts, "", "")[:3] if len(ref.parts) < 3 else ref.parts[:3]
        ways = [bool(pod), bool(workloads), "selector" in ref.query]
        if ref.scheme != "k8s" or len(ref.parts) > 3 or sum(ways) != 1 or len(workloads) > 1:
            raise InvalidReference(f"{text!r} does not say which pods", _FORMS)
        if container and "container" in ref.query:
            raise InvalidReference(f"{text!r} names a container twice", _FORMS)
        if "uid" in ref.query and not pod:
            raise InvalidReference(f"{text!r}: uid is of one pod", "name the pod too")
        wanted = cls(
            namespace=namespace,
            pod=pod,
            workload=workloads[0] if workloads else None,
            selector=ref.query.get("selector", ""),
            container=container or ref.query.get("container", ""),
            uid=ref.query.get("uid", ""),
            context=ref.query.get("context", ""),
        )
        wanted.check()
        return wanted

    def check(self) -> None:
        """Raises InvalidReference for names that no object can have."""
        for name in (self.namespace, self.pod, self.container, self.workload[1] if self.workload else ""):
            if name and not _NAME.fullmatch(name):
                raise InvalidReference(f"{name!r} cannot be the name of anything in Kubernetes", _FORMS)

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        if self.workload:
            return f"pods of {self.workload[0]} {self.workload[1]}{where}"
        return f"pod {self.pod}{where}" if self.pod else f"pods with {self.selector or 'any labels'}{where}"

    def of_these(self, pods: Sequence[PodObject]) -> list[PodObject]:
        """Those that are meant and not finished, of those that the API server has given. Raises ReferenceNotFound, NotPlaced."""
        found = [pod for pod in pods if self.workload is None or self.workload in pod.owners]
        if self.uid and all(self.uid not in (pod.uid, pod.api_uid) for pod in found):
            raise ReferenceNotFound(f"the {self} is another one now", "the one that was meant is gone; what it held may still be held")
        if not found:
            raise ReferenceNotFound(f"there are no {self}", "see kubectl get pods")
        if self.container:
            found = [pod for pod in found if any(each.name == self.container for each in pod.containers)]
            if not found:
                raise ReferenceNotFound(f"no container {self.container} was started in {self}", "see kubectl describe pod")
        running = [pod for pod in found if not pod.is_finished]
        if not any(pod.node for pod in running):
            why = "finished" if not running else "not on a node yet"
            raise NotPlaced(f"{self}: {why}", "nothing of it runs")
        return [pod for pod in running if pod.node]


def workload(kind: str, name: str) -> tuple[str, str] | None:
    """``deploy/web`` as kubectl takes it; None where the kind is none of these."""
    for full, others in WORKLOADS.items():
        if kind.lower().partition(".")[0] in (full, *others):
            return full, name
    return None
