"""Nodes of a Kubernetes cluster: the agents that the Helm chart put there."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mrelease.errors import MissingExtra, NoAgent
from mrelease.resolvers._placement import Agent

if TYPE_CHECKING:
    from mrelease.resolvers.kubernetes import Kubernetes

_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Cluster:
    """The cluster that kubectl would ask, by its resolver. An agent of it is known to be on the node that is meant, and checked to be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cluster: Kubernetes | None = None

    def find(self, node: str, deadline: float) -> Agent:
        """See ``Finder``."""
        self.check()
        end = time.monotonic() + deadline
        try:
            cluster = self._resolver()
        except MissingExtra as error:
            raise NoAgent(str(error)) from None
        return dataclasses.replace(cluster.reach(node, end), node=node)

    def check(self) -> None:
        """Raises NoAgent where kubectl would know no cluster."""
        if not is_configured():
            raise NoAgent("there is no kubeconfig, and this is no pod")

    def close(self) -> None:
        """End tunnels."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    def _resolver(self) -> Kubernetes:
        with self._lock:
            if self._cluster is None:
                from mrelease.resolvers.kubernetes import CALLER, Kubernetes

                self._cluster = Kubernetes(
                    agents=os.environ.get("MRELEASE_KUBERNETES_AGENTS", ""),
                    caller=os.environ.get("MRELEASE_KUBERNETES_CALLER", "") or CALLER,
                )
            return self._cluster


def is_configured() -> bool:
    """Whether kubectl would know a cluster without being told which."""
    if os.environ.get("KUBECONFIG") or (os.environ.get("KUBERNETES_SERVICE_HOST") and _TOKEN.exists()):
        return True
    try:
        return (Path.home() / ".kube" / "config").exists()
    except (RuntimeError, OSError):
        return False
