"""A release of the chart with the controller, and what it did: its lease, its Events, its logs, the agents' records of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e.cluster import Cluster, CommandError, LocalNode, Pod
from e2e.k8s.release import Release
from support.lab import MIB, until

#: Common name of the controller's certificate.
CALLER = "mrelease-controller"
#: Seconds past a grace period.
MARGIN, KILL_MARGIN = 3, 6
PATIENCE = 90.0


@dataclass(frozen=True, slots=True)
class Controlled:
    """``allowed``, ``killing``, ``dry``: the namespaces in which it may release, also kill, and only say what it would do."""

    release: Release
    allowed: str
    killing: str
    dry: str

    @property
    def cluster(self) -> Cluster:
        return self.release.cluster

    @property
    def name(self) -> str:
        return f"{self.release.full_name}-controller"

    @staticmethod
    def values(allowed: str, killing: str, dry: str) -> dict[str, Any]:
        """Short margins; in no other namespace anything is done."""
        config = {
            "margin": f"{MARGIN}s",
            "kill_margin": f"{KILL_MARGIN}s",
            "timeout": "5s",
            "first_pause": "1s",
            "longest_pause": "3s",
            "namespaces": {"allow": [allowed, killing, dry], "kill": [killing]},
        }
        return {"controller": {"enabled": True, "config": config}}

    def pods(self) -> dict[str, Pod]:
        """Its pods by their names; those that are ending, or have no address yet, are left out."""
        selector = f"{self.release.selector},app.kubernetes.io/component=controller"
        items = self.cluster.get("pods", namespace=self.release.namespace, selector=selector)["items"]
        pods = [Pod.of(item) for item in items if "deletionTimestamp" not in item["metadata"]]
        return {pod.name: pod for pod in pods if pod.address}

    def await_rollout(self) -> None:
        """Wait until as many run as there are to be, each with an address."""
        self.cluster.await_rollout(f"deployment/{self.name}", self.release.namespace)

    def holder(self) -> str:
        """Who holds the lease; empty: nobody."""
        return str(self.cluster.get("lease", self.name, self.release.namespace).get("spec", {}).get("holderIdentity") or "")

    def leader(self) -> Pod:
        """The pod of the one that acts."""
        until(lambda: self.holder() in self.pods(), "a controller to lead", PATIENCE)
        return self.pods()[self.holder()]

    def metric(self, name: str) -> dict[str, float]:
        """A metric without labels of each of its pods, by the pod's name; of those that do not serve it now there is none."""
        found = dict[str, float]()
        for pod in self.pods():
            # It starts, or it ends, between the list and the question.
            with contextlib.suppress(CommandError):
                path = f"/api/v1/namespaces/{self.release.namespace}/pods/{pod}:9465/proxy/metrics"
                lines = self.cluster.kubectl("get", "--raw", path).splitlines()
                found[pod] = float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))
        return found

    def log(self, pod: str) -> list[Mapping[str, Any]]:
        """What one of its pods has said."""
        said = self.cluster.kubectl("logs", pod, "-n", self.release.namespace)
        return [json.loads(line) for line in said.splitlines() if line.startswith("{")]

    def events(self, pod: Pod) -> list[tuple[str, str]]:
        """Reason and text of its Events on a pod."""
        items = self.cluster.get("events", namespace=pod.namespace)["items"]
        return [
            (item["reason"], item["message"])
            for item in items
            if item["involvedObject"].get("uid") == pod.uid and item.get("reportingComponent") == "mrelease.dev/controller"
        ]

    def await_event(self, pod: Pod, reason: str) -> str:
        """Wait for one; its text."""
        until(lambda: any(found == reason for found, _ in self.events(pod)), f"an Event {reason} on {pod.name}", PATIENCE)
        return next(text for found, text in self.events(pod) if found == reason)

    def records(self, pod: Pod) -> list[Mapping[str, Any]]:
        """The agent's records of a pod, whoever asked."""
        return [record for record in self.release.audit(pod.node) if pod.uid in str(record)]


def await_released(node: LocalNode, container: str, below: int) -> None:
    """Wait until so little is charged to a container."""
    until(lambda: node.charge(container) < below * MIB, f"container {container[:12]} to hold less than {below} MiB", PATIENCE)


def delete(cluster: Cluster, pod: Pod) -> None:
    """Ask for the end of a pod, and do not wait for it."""
    cluster.kubectl("delete", "pod", pod.name, "-n", pod.namespace, "--wait=false")
