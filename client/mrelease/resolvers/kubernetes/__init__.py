"""``k8s://``: pods, containers and workloads of Kubernetes. Its libraries are the extra ``kubernetes``."""

from mrelease.resolvers.kubernetes._agents import AgentPod, agents_of
from mrelease.resolvers.kubernetes._objects import ContainerOfPod, NodeObject, PodObject
from mrelease.resolvers.kubernetes._reference import Wanted, workload
from mrelease.resolvers.kubernetes._resolver import CALLER, Kubernetes

__all__ = ["AgentPod", "CALLER", "ContainerOfPod", "Kubernetes", "NodeObject", "PodObject", "Wanted", "agents_of", "workload"]
