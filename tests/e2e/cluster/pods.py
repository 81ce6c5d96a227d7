"""Pods: what a test needs to know of one, and victims to be started as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Fills as many MiB as it is told, says so in a file that the startup probe looks for, and stays until SIGTERM, also as pid 1.
_HOG = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
memory = b"x" * (int(sys.argv[1]) << 20)
pathlib.Path("/tmp/full").touch()
while True:
    signal.pause()
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod at one moment."""

    name: str
    namespace: str
    uid: str
    node: str
    phase: str
    #: The pod's IP address; empty before it has one.
    address: str
    #: Container's name to its id, without the runtime's scheme; only those that have one yet. Init containers and sidecars too.
    containers: Mapping[str, str]
    #: Container's name to how often it was started again.
    restarts: Mapping[str, int]

    @classmethod
    def of(cls, item: Mapping[str, Any]) -> Pod:
        """A pod of the API server's answer."""
        metadata, status = item["metadata"], item.get("status", {})
        states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return cls(
            metadata["name"],
            metadata["namespace"],
            metadata["uid"],
            item["spec"].get("nodeName", ""),
            status.get("phase", ""),
            status.get("podIP", ""),
            {state["name"]: state["containerID"].partition("://")[2] for state in states if state.get("containerID")},
            {state["name"]: state["restartCount"] for state in states},
        )


def hog(
    name: str, mib: int, image: str, *, node: str = "", restart: str = "Always", resources: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A pod that is ready as soon as it holds ``mib`` MiB. It runs in the agent's image: every cluster that has the agent has that."""
    # Not kubelet's word that a process was started, but its own that the memory is there. Only until then: a probe's processes
    # are the container's.
    probe = {
        "exec": {"command": ["/opt/mrelease/bin/python", "-Sc", "import os; os.stat('/tmp/full')"]},
        "periodSeconds": 1,
        "timeoutSeconds": 10,
        "failureThreshold": 300,  # a node that is busy takes its time
    }
    container = {
        "name": "hog",
        "image": image,
        "command": ["/opt/mrelease/bin/python", "-Sc", _HOG, str(mib)],
        "resources": resources or {},
        "startupProbe": probe,
    }
    spec: dict[str, Any] = {
        "containers": [container],
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
