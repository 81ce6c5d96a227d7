"""A real Kubernetes cluster for tests: the one that `up` beside this file starts on this machine, or any other by ``E2E_KUBECONFIG``."""

from __future__ import annotations

from .cluster import Cluster, CommandError, connect, start
from .nodes import LocalNode
from .pods import Pod, hog

__all__ = ["Cluster", "CommandError", "LocalNode", "Pod", "connect", "hog", "start"]
