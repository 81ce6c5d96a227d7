"""One request for each of several targets, all at the same time, and how far they are meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from mrelease import AsyncClient, MreleaseError, ReleaseProgress, ReleaseResult, Target, errors
from mrelease.cli.answers import Answer
from mrelease.cli.bars import DELAY, INTERVAL, Bars
from mrelease.cli.targets import name_of
from mrelease.cli.where import Where
from mrelease.v1 import release_service_pb2

# Requests under way at once: an agent has more threads than that, and a terminal fewer lines.
_CONCURRENCY = 64
# How an agent that does not know `request_id` names it when it refuses it.
_UNKNOWN_FIELD = {
    str(request.REQUEST_ID_FIELD_NUMBER) for request in (release_service_pb2.KillAndReleaseRequest, release_service_pb2.ReleaseRequest)
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of each target. ``arguments`` are those of the client's method; ``request_id``: the caller's own, of one target."""

    kill: bool
    arguments: dict[str, Any]
    request_id: str = ""

    async def make(self, client: AsyncClient, target: Target, request_id: str) -> ReleaseResult:
        """Ask it of one target."""
        method = client.kill_and_release if self.kill else client.release
        return await method(target, request_id=request_id, **self.arguments)


@dataclass(slots=True)
class Asking:
    """The requests of one command. With ``bars`` each has an id by which it is watched, of the caller's or a new one."""

    targets: Sequence[Target]
    request: Request
    bars: Bars | None = None
    answers: dict[Target, Answer] = field(default_factory=dict[Target, Answer])
    _ids: dict[Target, str] = field(default_factory=dict[Target, str])

    async def run(self, where: Where) -> None:
        """Ask, and wait for every answer."""
        slots = asyncio.Semaphore(_CONCURRENCY)
        try:
            async with where.async_client() as client:
                await asyncio.gather(*(self._ask(client, target, slots) for target in self.targets))
        finally:
            if self.bars is not None:
                self.bars.close()

    @property
    def given(self) -> list[Answer]:
        """The answers that have come, in the order of the targets."""
        return [self.answers[target] for target in self.targets if target in self.answers]

    @property
    def open_ids(self) -> list[str]:
        """Ids of the requests that were made and not answered."""
        return [request_id for target, request_id in self._ids.items() if target not in self.answers]

    async def _ask(self, client: AsyncClient, target: Target, slots: asyncio.Semaphore) -> None:
        async with slots:
            watcher = None
            request_id = self.request.request_id
            if self.bars is not None and not self.request.arguments["validate_only"]:
                request_id = request_id or str(uuid4())
                watcher = asyncio.create_task(self._watch(client, target, request_id, self.bars))
            if request_id:
                self._ids[target] = request_id
            try:
                self.answers[target] = Answer(target, await self._make(client, target, request_id))
            except MreleaseError as error:
                self.answers[target] = Answer(target, error)
            finally:
                if watcher is not None:
                    watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                if self.bars is not None:
                    self.bars.end(target)

    async def _make(self, client: AsyncClient, target: Target, request_id: str) -> ReleaseResult:
        try:
            return await self.request.make(client, target, request_id)
        except errors.InvalidField as refused:
            # An older agent has no ids. Nothing was signalled, and nobody but us asked for one.
            if self.request.request_id or not request_id or refused.metadata.get("field") not in _UNKNOWN_FIELD:
                raise
            del self._ids[target]
        return await self.request.make(client, target, "")

    async def _watch(self, client: AsyncClient, target: Target, request_id: str, bars: Bars) -> None:
        await asyncio.sleep(DELAY)
        # What goes wrong here goes wrong with the request too, or concerns nobody.
        with contextlib.suppress(MreleaseError):
            async for news in client.watch_release(request_id, interval=INTERVAL):
                if isinstance(news, ReleaseProgress):
                    bars.show(target, name_of(target), news)
