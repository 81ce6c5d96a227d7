"""The resolver: pods of a cluster to the agents of their nodes."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from mrelease._models import NodeRef, Pod
from mrelease._tls import TLS
from mrelease.errors import InvalidReference, NoAgent, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound, ResolutionError
from mrelease.resolvers import Agent, Placement
from mrelease.resolvers.kubernetes._agents import AgentPod, Directory, Release, find_release
from mrelease.resolvers.kubernetes._api import Api, path_of
from mrelease.resolvers.kubernetes._login import Choice, log_in
from mrelease.resolvers.kubernetes._objects import NodeObject, PodObject, inner
from mrelease.resolvers.kubernetes._reference import Wanted
from mrelease.resolvers.kubernetes._tunnel import Tunnels

ValueT = TypeVar("ValueT")

#: The caller whose certificate the chart makes by default.
CALLER: Final = "mrelease-admin"
# Seconds for which a certificate is not read again: it may be replaced, and the agents' authority with it.
_KEPT: Final = 60.0
# Seconds to delete what is to end.
_CANCEL: Final = 30.0
# Agents that are reached at the same time.
_CONCURRENCY: Final = 16
# Of more nodes than so many the list is quicker than asking for each: one costs as much as ten of a list, which has all of the cluster's.
_SINGLY: Final = 32


class Kubernetes:
    """Pods, containers and workloads of a cluster, and the agents that the Helm chart put on its nodes.

    References: ``k8s://namespace/pod``, ``k8s://namespace/pod/container``, ``k8s://namespace?selector=app=x`` (or ``deployment``,
    ``statefulset``, ``daemonset``, ``job``, ``replicaset``), with ``&container=NAME`` for one container of each and ``&uid=UID`` for one
    pod of that name only.

    ``kubeconfig``, ``context``, ``as_user``, ``as_groups``: as kubectl's flags; empty: as kubectl without them. ``agents``: the namespace
    of the chart's release; empty: ``mrelease``, else where there is one. ``caller``: whose certificate is shown to the agents, from the
    Secret that the chart made; ``tls``: another one. ``tunnel``: reach agents through the API server; None: unless this is a pod of the
    cluster. ``watched``: keep up with where the agents are, by a thread, for programs that live long.

    Threads may share it; for asyncio call it in a thread. Close it: the addresses that it gives are valid until then. Nothing is asked
    before the first call; the constructor raises ResolutionError where there is no usable kubeconfig.
    """

    def __init__(
        self,
        *,
        kubeconfig: str = "",
        context: str = "",
        as_user: str = "",
        as_groups: Sequence[str] = (),
        agents: str = "",
        caller: str = CALLER,
        tls: TLS | None = None,
        tunnel: bool | None = None,
        watched: bool = False,
    ) -> None:
        login = log_in(Choice(kubeconfig, context, as_user, tuple(as_groups)))
        #: The namespace in use, as the kubeconfig says.
        self.namespace = login.namespace
        self.api = Api(login)
        self._context = context
        self._agents_in, self._caller, self._own_tls, self._watched = agents, caller, tls, watched
        self._is_tunnelled = not login.in_cluster if tunnel is None else tunnel
        self._tunnels = Tunnels(login)
        self._lock = threading.Lock()
        self._directory: tuple[Release, Directory] | None = None
        self._tls: tuple[float, TLS] | None = None
        self._reached: dict[AgentPod, str] = {}

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``. Placements have the order of namespaces and names."""
        wanted = Wanted.of(ref)
        if wanted.context and wanted.context != self._context:
            raise ReferenceNotFound(f"{ref!r} is of another context than this resolver", "make one for it: Kubernetes(context=...)")
        end = time.monotonic() + deadline
        pods = self.find(wanted, end)
        return self.reached(self.place(pods, end, wanted.container), end)

    def find(self, wanted: Wanted, end: float) -> list[PodObject]:
        """The pods that are meant and run on a node. ``end``: time.monotonic() by which they are there. Raises ResolutionError."""
        wanted.check()
        if wanted.pod:
            found = [PodObject.of(self.api.get(path_of("api", "v1", "namespaces", wanted.namespace, "pods", wanted.pod), end))]
        else:
            found = self.pods(wanted.namespace, end, selector=wanted.selector)
        return wanted.of_these(found)

    def pods(self, namespace: str, end: float, *, selector: str = "", node: str = "") -> list[PodObject]:
        """The pods of a namespace (empty: of all), by namespace and name. Raises ResolutionError."""
        path = path_of("api", "v1", "namespaces", namespace, "pods") if namespace else path_of("api", "v1", "pods")
        query = {"labelSelector": selector} if selector else {}
        query |= {"fieldSelector": f"spec.nodeName={node}"} if node else {}
        return sorted(self.api.each(path, end, PodObject.of, **query), key=lambda pod: (pod.namespace, pod.name))

    def nodes(self, names: Iterable[str] | None, end: float) -> dict[str, NodeObject]:
        """These nodes, or all, as far as they are there. Raises ResolutionError."""
        wanted = None if names is None else sorted(set(names))
        if wanted is None or len(wanted) > _SINGLY:
            every = {node.name: node for node in self.api.each(path_of("api", "v1", "nodes"), end, NodeObject.of)}
            return every if wanted is None else {name: every[name] for name in wanted if name in every}
        return {node.name: node for node in self._at_once(partial(self._node, end), wanted) if node is not None}

    def place(self, pods: Sequence[PodObject], end: float, container: str = "") -> list[Placement]:
        """A placement for each pod, or for this container of each, without its agent. Raises ResolutionError."""
        nodes = self.nodes((pod.node for pod in pods), end)
        return [self._place(pod, container, nodes.get(pod.node)) for pod in pods]

    def reached(self, placements: Sequence[Placement], end: float) -> list[Placement]:
        """The placements with their agents. Raises ResolutionError where what is wrong with one is so with every one."""
        names = sorted({placement.node for placement in placements if placement.problem is None})
        if not names:
            return list(placements)
        self.release(end)
        self.credentials(end)
        self.agents(end)
        agents = dict(zip(names, self._at_once(partial(self._try, end), names), strict=True))
        found: list[Placement] = []
        for placement in placements:
            agent = agents.get(placement.node)
            if isinstance(agent, Agent):
                found.append(replace(placement, agent=agent))
            else:
                found.append(replace(placement, problem=placement.problem or agent))
        return found

    def reach(self, node: str, end: float) -> Agent:
        """The agent of a node, and a way to it. Raises ResolutionError: NoAgent."""
        release = self.release(end)
        agent = self._agents(end).get(node)
        if agent is None:
            raise NoAgent(f"there is no agent on node {node}", "does the chart's nodeSelector leave it out? `doctor` looks at every node")
        tls = self.credentials(end)
        if not self._is_tunnelled:
            host = f"[{agent.address}]" if ":" in agent.address else agent.address
            return Agent(f"{host}:{agent.port}", tls)
        with self._lock:
            address = self._reached.get(agent)
        if address is None or self._tunnels.problem(address) is not None:
            try:
                address = self._tunnels.open(release.namespace, agent.pod, agent.port, end)
            except ReferenceNotFound:
                raise NoAgent(f"the agent of node {node} is gone", "try again: another one is started") from None
            with self._lock:
                self._reached[agent] = address
        return Agent(address, tls)

    def leave(self, node: str) -> None:
        """End the tunnel to a node, where many are reached one after the other."""
        with self._lock:
            addresses = [self._reached.pop(agent) for agent in list(self._reached) if agent.node == node]
        for address in addresses:
            self._tunnels.shut(address)

    def why(self, agent: Agent) -> ResolutionError | None:
        """Why a way to an agent that was there is not there any more; None: it is not the way."""
        return self._tunnels.problem(agent.address)

    def agents(self, end: float) -> dict[str, AgentPod]:
        """The agents by their nodes. Raises ResolutionError."""
        return dict(self._agents(end))

    def release(self, end: float) -> Release:
        """The installation of the agents. Raises ResolutionError: NoAgent."""
        with self._lock:
            if self._directory is None:
                found = find_release(self.api, self._agents_in, end)
                self._directory = (found, Directory(self.api, found, watched=self._watched))
            return self._directory[0]

    def credentials(self, end: float) -> TLS:
        """What agents are shown: the caller's own, else of the Secret. Raises ResolutionError."""
        if self._own_tls is not None:
            return self._own_tls
        release = self.release(end)
        with self._lock:
            if self._tls is None or time.monotonic() - self._tls[0] > _KEPT:
                self._tls = (time.monotonic(), self._read_secret(release, end))
            return self._tls[1]

    def delete(self, pod: PodObject, end: float, *, grace_seconds: int | None = None, dry_run: bool = False) -> None:
        """Ask the API server to delete exactly this pod. Raises ResolutionError, ReferenceNotFound where another one has its name."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": pod.api_uid}}
        body |= {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        body |= {"dryRun": ["All"]} if dry_run else {}
        self.api.delete(path_of("api", "v1", "namespaces", pod.namespace, "pods", pod.name), end, body)

    def before(self, placements: Sequence[Placement]) -> None:
        """Delete the pods, with their own grace period: see ``Resolver``. Raises ResolutionError.

        A pod that is terminating is not started again by kubelet.
        """
        end = time.monotonic() + _CANCEL
        pods = [self._same(each, end) for each in placements]
        for pod in pods:
            self.delete(pod, end)

    def close(self) -> None:
        """End tunnels, the thread that watches, and connections."""
        if self._directory is not None:
            self._directory[1].close()
        self._tunnels.close()
        self.api.close()

    def __enter__(self) -> Kubernetes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _agents(self, end: float) -> Mapping[str, AgentPod]:
        self.release(end)
        assert self._directory is not None
        return self._directory[1].agents(end)

    def _at_once(self, work: Callable[[str], ValueT], names: Sequence[str]) -> list[ValueT]:
        if len(names) < 2:
            return [work(name) for name in names]
        with ThreadPoolExecutor(min(_CONCURRENCY, len(names)), thread_name_prefix="mrelease-reach") as threads:
            return list(threads.map(work, names))

    def _node(self, end: float, name: str) -> NodeObject | None:
        try:
            return NodeObject.of(self.api.get(path_of("api", "v1", "nodes", name), end))
        except ReferenceNotFound:
            return None

    def _same(self, placement: Placement, end: float) -> PodObject:
        target = placement.target
        if not isinstance(target, Pod) or target.containers:
            raise InvalidReference(f"{placement.title} is one container: only its pod can be deleted", "leave cancel away, or name the pod")
        namespace, name = placement.title.split("/")
        pod = PodObject.of(self.api.get(path_of("api", "v1", "namespaces", namespace, "pods", name), end))
        if pod.uid != target.uid:
            raise ReferenceNotFound(f"pod {placement.title} is another one now", "the one that was meant is gone")
        return pod

    def _try(self, end: float, node: str) -> Agent | ResolutionError:
        try:
            return self.reach(node, end)
        except ResolutionError as error:
            return error

    def _place(self, pod: PodObject, container: str, node: NodeObject | None) -> Placement:
        ids = tuple(each.id for each in pod.containers if each.name == container and each.id) if container else ()
        title = f"{pod.title}/{container}" if container else pod.title
        problem: ResolutionError | None = None
        if container and not ids:
            problem = ReferenceNotFound(f"container {container} of {pod.title} was not started yet", "nothing of it runs")
        elif node is None:
            problem = ReferenceNotFound(f"node {pod.node} of {pod.title} is not part of the cluster any more", "see kubectl get nodes")
        expected = NodeRef(pod.node, node.boot_id if node else "")
        return Placement(pod.node, Pod(pod.uid, ids), expected, title, problem=problem)

    def _read_secret(self, release: Release, end: float) -> TLS:
        name = f"{release.service}-client-{self._caller}"
        other = "give files: --tls-ca, --tls-cert and --tls-key"
        try:
            data = inner(self.api.get(path_of("api", "v1", "namespaces", release.namespace, "secrets", name), end), "data")
        except ReferenceNotFound:
            message = f"there is no Secret {name} in namespace {release.namespace}"
            raise NoAgent(message, f"add {self._caller} to the chart's tls.clients, name another caller (--caller), or {other}") from None
        except OrchestratorDenied as error:
            raise OrchestratorDenied(error.message, f"ask for the chart's Role {release.service}-caller, or {other}") from None
        try:
            ca, cert, key = (base64.b64decode(str(data[part]), validate=True) for part in ("ca.crt", "tls.crt", "tls.key"))
        except (KeyError, binascii.Error, ValueError):
            message = f"Secret {name} in namespace {release.namespace} has no ca.crt, tls.crt and tls.key"
            raise OrchestratorUnavailable(message, "make it anew: delete it, then helm upgrade") from None
        return TLS(ca, cert, key, release.server_name)
