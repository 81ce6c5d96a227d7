"""What ``mrelease top`` shows: samples of the node's memory, and with them the processes by what their death would give back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from mrelease import AsyncClient, Cgroup, Container, MemorySample, ProcessList, errors

#: Seconds for which a list of processes is new enough: making one costs the agent some 40 us a process.
_FRESH = 0.9


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: how often, of which container or cgroup beside the node, and how many processes at most."""

    interval: timedelta
    within: Container | Cgroup | None
    limit: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A sample; ``processes`` is None where the last list is less than a second old."""

    sample: MemorySample
    processes: ProcessList | None


async def snapshots(client: AsyncClient, query: Query) -> AsyncGenerator[Snapshot, None]:
    """Follow the node until it is closed. Raises ``errors.AgentError``."""
    listed = -_FRESH
    async with aclosing(_samples(client, query)) as samples:
        async for sample in samples:
            processes = None
            if time.monotonic() - listed >= _FRESH:
                processes = await client.list_processes(limit=query.limit, within=query.within)
                listed = time.monotonic()
            yield Snapshot(sample, processes)


async def _samples(client: AsyncClient, query: Query) -> AsyncGenerator[MemorySample, None]:
    try:
        async with aclosing(client.watch_memory(interval=query.interval, within=query.within)) as watched:
            async for sample in watched:
                yield sample
            return
    except errors.UnknownMethod:
        pass
    # An older agent: memory alone, asked for again and again.
    while True:
        node = await client.get_node()
        if node.memory is not None:
            yield MemorySample(datetime.now(timezone.utc), node.memory, None, None, False, node.identity)
        await asyncio.sleep(query.interval.total_seconds())
