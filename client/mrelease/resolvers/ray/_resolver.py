"""The resolver: processes of Ray to the agents of their nodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from mrelease._client import Client
from mrelease._models import NodeRef, Process
from mrelease.addresses import agent_of
from mrelease.errors import (
    AgentError,
    DeadlineExceeded,
    NoAgent,
    NotDying,
    OrchestratorUnavailable,
    ProcessNotFound,
    ReferenceNotFound,
    ResolutionError,
    TargetNotFound,
    Unreachable,
)
from mrelease.resolvers import Agent, Placement
from mrelease.resolvers.ray._api import Api
from mrelease.resolvers.ray._reference import RayName
from mrelease.resolvers.ray._workers import RayNode, Worker, find, find_node, is_taken

_REASON: Final = "who is this? for ray://"


class Ray:
    """Actors, tasks and workers of a Ray cluster, and the agents of their nodes.

    References: ``ray://HOST:PORT/actor/ID``, ``/actor/NAME`` (``?namespace=``), ``/task/ID`` (``?attempt=``), ``/worker/ID``,
    ``/node/NODE/PID``. HOST:PORT is the dashboard's; ``auto`` stands for the one of the environment. ``?container=ID`` where Ray runs in a
    container, whose pids are its own; ``?node=NAME`` where the agent's node has another name than Ray gives it.

    Ray knows a process by its pid alone, so the identity is the agent's: Ray says who it is, the agent says which process has this pid now
    and by which pidfd inode or start time it is known, Ray is asked again; only where it still says the same does the identity stand. What
    Ray calls dead is placed where that process is still dying, and no living worker has its pid: its memory is held.

    ``environment``: where the address of ``auto`` and the token come from; None: that of the process. Threads may share it. It needs no
    library of Ray, and the user's token is sent as Ray itself does.
    """

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        self._environment = environment

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``. One placement. Raises NotPlaced for what waits or is between two processes."""
        end = time.monotonic() + deadline
        name = RayName.of(ref)
        api = Api(name.address, self._environment)
        worker = find(api, name, end)
        node = find_node(api, worker.node_id, end)
        title = f"{name} on {node.title}"
        try:
            agent = _agent(name, node, end)
        except NoAgent as problem:
            return [Placement(node.title, Process(worker.pid, container_id=name.container), NodeRef(), title, problem=problem)]
        process, expected = _identity(agent, name, worker, node, end)
        now = find(api, name, end)
        if (now.node_id, now.pid) != (worker.node_id, worker.pid):
            raise ReferenceNotFound(f"{name} has got another process meanwhile", "it was restarted: look again, then decide")
        if not now.is_alive and is_taken(api, now, end):
            raise ReferenceNotFound(f"{name} is dead, and another worker has its pid {now.pid}", "its memory has come back with its exit")
        if worker.is_alive and not now.is_alive:
            # It died while it was identified: then whoever has its number must be dying.
            process, expected = _identity(agent, name, now, node, end, known=process)
        return [Placement(node.title, process, expected, title, agent)]

    def close(self) -> None:
        """Nothing is open."""


def _agent(name: RayName, node: RayNode, end: float) -> Agent:
    """The agent of a node, by any of the names that it has. Raises NoAgent with what was said of each."""
    said: list[str] = []
    for called in (name.agent_node,) if name.agent_node else node.names:
        try:
            return agent_of(called, deadline=max(0.0, end - time.monotonic()))
        except NoAgent as problem:  # noqa: PERF203 -- two names at most
            said.append(problem.message)
    raise NoAgent("; ".join(said) or f"Ray gives no name of node {node.title}", "is its name another one to us? ?node=NAME says it")


def _identity(
    agent: Agent, name: RayName, worker: Worker, node: RayNode, end: float, *, known: Process | None = None
) -> tuple[Process, NodeRef]:
    """Which process has the number now, as its agent knows it. Of one that Ray calls dead only one that is dying. Signals nothing."""
    target = known or Process(worker.pid, container_id=name.container)
    try:
        with Client(agent.address, tls=agent.tls, timeout=max(0.1, end - time.monotonic())) as client:
            ask = client.kill_and_release if worker.is_alive else client.release
            found = ask(target, node=NodeRef(agent.node), validate_only=True, reason=_REASON)
    except (ProcessNotFound, TargetNotFound):
        gone = "it is over, and its memory is back" if not worker.is_alive else "where Ray runs in a container, add ?container=ID"
        raise ReferenceNotFound(f"{name}: node {node.title} has no process {worker.pid}", gone) from None
    except NotDying:
        raise ReferenceNotFound(
            f"{name} is dead to Ray, and process {worker.pid} lives: another one has the number", "its memory is back"
        ) from None
    except (Unreachable, DeadlineExceeded) as error:
        raise OrchestratorUnavailable(f"the agent of node {node.title} does not answer: {error.message}", "is it running?") from None
    except AgentError as error:
        raise ResolutionError(f"{name}: the agent of node {node.title}: {error.message}", error.remedy) from None
    (process,) = [row.process for row in found.processes]
    return process, found.node
