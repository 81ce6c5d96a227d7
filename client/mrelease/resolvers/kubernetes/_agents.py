"""Where the agents are: the Service of the Helm chart, and its EndpointSlices."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from mrelease.errors import NoAgent, OrchestratorDenied, OrchestratorUnavailable, ReferenceAmbiguous, ReferenceNotFound, ResolutionError
from mrelease.resolvers.kubernetes._api import Api, Json, path_of
from mrelease.resolvers.kubernetes._objects import entries, inner

#: Where agents are looked for first.
NAMESPACE: Final = "mrelease"
_COMPONENT: Final = "app.kubernetes.io/component=agent"
_SERVER_NAME: Final = "mrelease.dev/server-name"
# Where nobody watches: seconds for which what was listed is taken for true. A list for each of a thousand nodes would be a million.
_FRESH: Final = 5.0
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Release:
    """An installation of the chart. ``server_name``: what its agents' certificates have in common."""

    namespace: str
    service: str
    server_name: str


@dataclass(frozen=True, slots=True)
class AgentPod:
    """The agent of a node."""

    node: str
    pod: str
    address: str
    port: int
    is_ready: bool


def find_release(api: Api, namespace: str, end: float) -> Release:
    """The release in ``namespace``; empty: that in ``mrelease``, else the only one of the cluster, as far as the caller may look.

    Raises ResolutionError: NoAgent where there is none, ReferenceAmbiguous where there are several.
    """
    found = _releases(api, path_of("api", "v1", "namespaces", namespace or NAMESPACE, "services"), end, strict=bool(namespace))
    if not found and not namespace:
        found = _releases(api, path_of("api", "v1", "services"), end, strict=False)
    if not found:
        where = f"in namespace {namespace}" if namespace else f"in namespace {NAMESPACE}, or you may not see them elsewhere"
        raise NoAgent(f"there are no agents {where}", "install the Helm chart, or say where they are: --agents NAMESPACE")
    if len(found) > 1:
        names = ", ".join(f"{each.namespace}/{each.service}" for each in found)
        raise ReferenceAmbiguous(f"there are several installations of the agents: {names}", "say which: --agents NAMESPACE")
    return found[0]


def _releases(api: Api, path: str, end: float, *, strict: bool) -> list[Release]:
    try:
        items = api.items(path, end, labelSelector=_COMPONENT)
    except (OrchestratorDenied, ReferenceNotFound):
        if strict:
            raise
        return []
    found: list[Release] = []
    for item in items:
        metadata = inner(item, "metadata")
        name = inner(metadata, "annotations").get(_SERVER_NAME)
        if name:
            found.append(Release(metadata["namespace"], metadata["name"], name))
    return found


def agents_of(slices: Sequence[Json]) -> dict[str, AgentPod]:
    """The agent of each node. Where two overlap, as in an upgrade, the one that is ready."""
    found: dict[str, AgentPod] = {}
    for item in slices:
        port = next((each.get("port") for each in entries(item, "ports") if each.get("name") == "grpc"), None)
        for endpoint in entries(item, "endpoints"):
            agent = _agent(endpoint, port)
            if agent is not None and (agent.node not in found or agent.is_ready):
                found[agent.node] = agent
    return found


def _agent(endpoint: Mapping[str, Any], port: int | None) -> AgentPod | None:
    node, addresses = str(endpoint.get("nodeName") or ""), [str(address) for address in endpoint.get("addresses") or ()]
    if not (node and addresses and port):
        return None
    # "ready: null" is to be taken for ready, EndpointSlice of discovery.k8s.io/v1.
    ready = inner(endpoint, "conditions").get("ready") is not False
    return AgentPod(node, str(inner(endpoint, "targetRef").get("name") or ""), addresses[0], port, ready)


class Directory:
    """The agents of a release: asked for each time, or with ``watched`` kept up to date by a thread until ``close``."""

    def __init__(self, api: Api, release: Release, *, watched: bool) -> None:
        self._api, self._release = api, release
        self._path = path_of("apis", "discovery.k8s.io", "v1", "namespaces", release.namespace, "endpointslices")
        self._selector = f"kubernetes.io/service-name={release.service}"
        self._lock = threading.Lock()
        # Held by the one who asks; the other threads that want to know wait for its answer. Always taken before _lock.
        self._asking = threading.Lock()
        self._slices: dict[str, Json] = {}
        # Made of the slices when somebody wants to know: a roll-out changes one for each node, and nobody may look meanwhile.
        self._merged: Mapping[str, AgentPod] | None = None
        self._version = ""
        self._is_watched = False
        self._fresh_until = 0.0
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._follow, name="mrelease-agents", daemon=True) if watched else None

    def agents(self, end: float) -> Mapping[str, AgentPod]:
        """By their nodes, as of one moment. Raises ResolutionError."""
        known = self._known()
        if known is not None:
            return known
        if not self._asking.acquire(timeout=max(0.0, end - time.monotonic())):
            raise OrchestratorUnavailable("where the agents are was not known in time", "try again; `kubectl version` says why")
        try:
            known = self._known()
            return self._list(end) if known is None else known
        finally:
            self._asking.release()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        with self._lock:
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(5)

    def _known(self) -> Mapping[str, AgentPod] | None:
        with self._lock:
            return self._merge() if self._is_watched or time.monotonic() < self._fresh_until else None

    def _merge(self) -> Mapping[str, AgentPod]:
        if self._merged is None:
            self._merged = MappingProxyType(agents_of(list(self._slices.values())))
        return self._merged

    def _list(self, end: float) -> Mapping[str, AgentPod]:
        """Ask; the first time the thread goes on from there. Of those that ask there is one at a time."""
        items, version = self._api.list_versioned(self._path, end, labelSelector=self._selector)
        with self._lock:
            self._slices, self._merged, self._version = {str(item["metadata"]["uid"]): item for item in items}, None, version
            # While the thread cannot watch, callers ask, as they do where there is no thread.
            self._fresh_until = time.monotonic() + _FRESH
            if self._thread is not None and self._thread.ident is None and not self._closed.is_set():
                self._is_watched = True
                self._thread.start()
            return self._merge()

    def _follow(self) -> None:
        pause = _PAUSE
        while not self._closed.is_set():
            try:
                for kind, item in self._api.watch(self._path, self._version, self._opened, labelSelector=self._selector):
                    self._take(kind, item)
                    pause = _PAUSE
                # The server ends each after some minutes: it goes on where it was.
                continue
            except ResolutionError:
                self._forget()
            while not self._closed.wait(pause):
                pause = min(pause * 2, _LONGEST_PAUSE)
                if self._list_again():
                    break

    def _list_again(self) -> bool:
        # While this fails every caller asks for himself, and learns why.
        with contextlib.suppress(ResolutionError), self._asking:
            self._list(time.monotonic() + 30)
            with self._lock:
                self._is_watched = True
            return True
        return False

    def _take(self, kind: str, item: Json) -> None:
        if kind == "ERROR":
            # Of all reasons: 410, the version is too old.
            raise NoAgent(str(item.get("message")))
        metadata = item["metadata"]
        with self._lock:
            self._version = str(metadata["resourceVersion"])
            if kind == "BOOKMARK":
                return
            self._merged = None
            if kind == "DELETED":
                self._slices.pop(str(metadata["uid"]), None)
            else:
                self._slices[str(metadata["uid"])] = item

    def _forget(self) -> None:
        """What is not watched is not known: an agent may have moved."""
        with self._lock:
            self._is_watched, self._fresh_until = False, 0.0

    def _opened(self, opened: socket.socket) -> None:
        with self._lock:
            self._socket = opened
            if self._closed.is_set():
                opened.shutdown(socket.SHUT_RDWR)
