"""A cluster of any size as objects: nodes, the agents' pods with their Service and EndpointSlices, and everybody else's pods."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from typing import Any

from e2e.k8s.standalone import Plane

#: Namespace and name of the agents' Service, and the namespace of everybody else's pods.
AGENTS, SERVICE, LOAD = "mrelease", "mrelease", "load"
SERVER_NAME = "mrelease.mrelease.svc"
# As the EndpointSlice controller fills them: --max-endpoints-per-slice of kube-controller-manager.
PER_SLICE = 100
# Kubelet reports so many: --node-status-max-images.
_IMAGES = 50


def populate(plane: Plane, nodes: int, pods_per_node: int = 10, *, first: int = 0) -> None:
    """Nodes number ``first`` to ``nodes``, on each an agent and ``pods_per_node`` pods, of which one has the label app=web."""
    if first == 0:
        for name in (AGENTS, LOAD):
            plane.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        # Any certificates: what is shown to agents is read, and there is no agent to show it to.
        files = {"ca.crt": "ca.crt", "tls.crt": "client.crt", "tls.key": "client.key"}
        data = {key: base64.b64encode((plane.directory / file).read_bytes()).decode() for key, file in files.items()}
        plane.ask("POST", f"/api/v1/namespaces/{AGENTS}/secrets", {"metadata": {"name": f"{SERVICE}-client-mrelease-admin"}, "data": data})
        plane.ask("POST", f"/api/v1/namespaces/{AGENTS}/services", _service())
    numbers = range(first, nodes)
    plane.create("/api/v1/nodes", map(node, numbers), status=True)
    plane.create(f"/api/v1/namespaces/{AGENTS}/pods", (pod(f"agent-{n}", n, "agent") for n in numbers), status=True)
    loads = (pod(f"load-{n}-{k}", n, "load" if k else "web") for n in numbers for k in range(pods_per_node))
    plane.create(f"/api/v1/namespaces/{LOAD}/pods", loads, status=True)
    plane.create(f"/apis/discovery.k8s.io/v1/namespaces/{AGENTS}/endpointslices", slices(first, nodes))


def node(number: int) -> dict[str, Any]:
    """A node with what kubelet writes of it, the images that it has above all."""
    images = [
        {
            "names": [f"registry.example/team/service-{k}@sha256:{uuid.uuid4().hex * 2}", f"registry.example/team/service-{k}:1.{k}.0"],
            "sizeBytes": 1 << 28,
        }
        for k in range(_IMAGES)
    ]
    info = {
        "bootID": str(uuid.uuid4()),
        "kernelVersion": "6.18.0",
        "containerRuntimeVersion": "containerd://2.0.0",
        "kubeletVersion": "v1.34.4",
    }
    more = ("machineID", "systemUUID", "osImage", "kubeProxyVersion", "operatingSystem", "architecture")
    size = {"cpu": "64", "memory": "256Gi", "pods": "250"}
    kinds = (("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"))
    name = f"node-{number}"
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a"},
        },
        "status": {
            "capacity": size,
            "allocatable": size,
            "conditions": [{"type": kind, "status": status, "reason": "Kubelet", "message": "kubelet says so"} for kind, status in kinds],
            "addresses": [{"type": "InternalIP", "address": address(number)}, {"type": "Hostname", "address": name}],
            "nodeInfo": info | dict.fromkeys(more, "x"),
            "images": images,
        },
    }


def pod(name: str, number: int, app: str) -> dict[str, Any]:
    """A pod that runs on a node, with what kubelet writes of it."""
    image = f"registry.example/team/{app}:1"
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    container = {
        "name": "main",
        "image": image,
        "env": [{"name": f"SETTING_{k}", "value": "x" * 40} for k in range(10)],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "livenessProbe": probe,
        "readinessProbe": probe,
    }
    state = {
        "name": "main",
        "image": image,
        "imageID": f"{image}@sha256:{'0' * 64}",
        "containerID": f"containerd://{uuid.uuid4().hex * 2}",
        "ready": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "metadata": {"name": name, "labels": {"app": app, "pod-template-hash": "5d8f7c9b6d"}},
        "spec": {"nodeName": f"node-{number}", "containers": [container]},
        "status": {
            "phase": "Running",
            "podIP": address(number),
            "hostIP": address(number),
            "conditions": [{"type": kind, "status": "True"} for kind in kinds],
            "containerStatuses": [state],
        },
    }


def slices(first: int, nodes: int) -> Iterator[dict[str, Any]]:
    """The EndpointSlices of the agents."""
    for begin in range(first, nodes, PER_SLICE):
        yield {
            "metadata": {"name": f"{SERVICE}-{begin}", "labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "ports": [{"name": "grpc", "port": 7443, "protocol": "TCP"}],
            "endpoints": [endpoint(number) for number in range(begin, min(begin + PER_SLICE, nodes))],
        }


def endpoint(number: int, agent: str = "") -> dict[str, Any]:
    """The agent of a node."""
    target = {"kind": "Pod", "namespace": AGENTS, "name": agent or f"agent-{number}", "uid": str(uuid.uuid4())}
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {"addresses": [address(number)], "conditions": conditions, "nodeName": f"node-{number}", "targetRef": target}


def address(number: int) -> str:
    """An address that leads nowhere."""
    return f"10.200.{number >> 8}.{number & 255}"


def _service() -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "agent"}
    metadata = {"name": SERVICE, "labels": labels, "annotations": {"mrelease.dev/server-name": SERVER_NAME}}
    return {"metadata": metadata, "spec": {"clusterIP": "None", "ports": [{"name": "grpc", "port": 7443}]}}
