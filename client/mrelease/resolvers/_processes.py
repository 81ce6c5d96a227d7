"""Placements of processes that someone on their node has identified: a nanny, the main process of a Celery worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from mrelease.errors import AgentError, NoAgent, NotPlaced, ResolutionError
from mrelease.integrations._located import located, on_node
from mrelease.resolvers._placement import Placement


def place(facts: object, names: Sequence[str], title: str, end: float) -> Placement:
    """A placement of the process that ``identify`` found as ``facts``.

    ``names``: what the orchestrator calls the node, at least one; what it calls itself is asked for first. ``end``: time.monotonic() by
    which its agent is found. What is wrong with this process is the placement's ``problem``; raises ResolutionError for what is wrong with
    every one, and for facts that nobody can have found.
    """
    try:
        found = located(facts)
    except ValueError as error:
        message = f"{title}: what its node says of it cannot be read: {error}"
        raise NotPlaced(message, "has its node the same version of mrelease as this one?") from None
    placements: list[Placement] = []
    for name in dict.fromkeys((found.hostname, *names)):
        left = max(0.1, end - time.monotonic())
        placements.append(Placement.on(name, found.process, title, deadline=left, boot_id=found.boot_id))
        if placements[-1].agent is not None:
            break
    placement = placements[-1]
    if placement.agent is None or not found.is_nested:
        return placement
    problem: ResolutionError
    try:
        with placement.client(timeout=max(0.1, end - time.monotonic())) as client:
            return replace(placement, target=on_node(client, found))
    except LookupError as error:
        problem = NotPlaced(f"{title}: {error.args[0]}", "run its nodes' agents and its workers on one kernel, Linux 6.9 or newer")
    except AgentError as error:
        problem = NoAgent(f"{title}: the agent of node {placement.node} does not say which process it is: {error}")
    return replace(placement, agent=None, problem=problem)
