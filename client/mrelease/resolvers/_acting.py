"""A reference killed, or released, wherever its parts are: the requests at all nodes at once, and what is told to its orchestrator."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from mrelease._async_client import AsyncClient
from mrelease._models import NodeRef, Process, ReleaseResult, Target
from mrelease.errors import MreleaseError, ReferenceNotFound
from mrelease.resolvers._placement import Acted, Placement

#: Requests that are under way at the same time.
CONCURRENCY: Final = 32


async def ask(client: AsyncClient, placement: Placement, *, kill: bool, **options: Any) -> ReleaseResult:
    """``kill_and_release`` of one placement, or ``release``, with its precondition. ``options``: as the client's method.

    Raises AgentError, and ReferenceNotFound where the process is not the expected user's.
    """
    target = await identified(client, placement)
    expected = placement.expected if placement.expected != NodeRef() else None
    method = client.kill_and_release if kill else client.release
    return await method(target, node=expected, **options)


async def identified(client: AsyncClient, placement: Placement) -> Target:
    """The target of a placement; where only its user is known, the process of that user under this number, by its inode and start time."""
    target = placement.target
    if placement.uid is None or not isinstance(target, Process):
        return target
    listed = await client.list_processes(limit=None, uid=placement.uid)
    for each in listed.processes:
        same_start = target.start_time_ticks in (None, each.process.start_time_ticks)
        if each.process.pid == target.pid and same_start:
            return dataclasses.replace(each.process, container_id="")
    message = f"process {target.pid} on node {placement.node} is not one of user {placement.uid}, or is gone"
    raise ReferenceNotFound(message, "what was meant has ended; its number may be another's now")


async def act(placements: Sequence[Placement], *, kill: bool, concurrency: int = CONCURRENCY, **options: Any) -> list[Acted]:
    """Make the requests, and wait for every answer. ``options``: as ``AsyncClient.kill_and_release`` or ``release``. In the same order."""
    slots = asyncio.Semaphore(concurrency)

    async def one(placement: Placement) -> Acted:
        async with slots:
            try:
                async with placement.async_client() as client:
                    return Acted(placement, await ask(client, placement, kill=kill, **options))
            except MreleaseError as error:
                return Acted(placement, error)

    return list(await asyncio.gather(*map(one, placements)))
