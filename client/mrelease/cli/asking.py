"""One request for each of several targets, all at the same time, and how far they are meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

from mrelease import AsyncClient, MreleaseError, ReleaseProgress, ReleaseResult, Target, errors
from mrelease.cli.answers import Answer, title_of
from mrelease.cli.bars import DELAY, INTERVAL, Bars
from mrelease.v1 import release_service_pb2

#: Makes a request; it is given the id by which others may watch it, "" for none.
Make: TypeAlias = Callable[[AsyncClient, str], Awaitable[ReleaseResult]]

# Requests under way at one agent at once: it has more threads than that, and a terminal fewer lines.
_CONCURRENCY = 64
# How an agent that does not know `request_id` names it when it refuses it.
_UNKNOWN_FIELD = {
    str(request.REQUEST_ID_FIELD_NUMBER) for request in (release_service_pb2.KillAndReleaseRequest, release_service_pb2.ReleaseRequest)
}


@dataclass(frozen=True, slots=True)
class Job:
    """One request. ``target`` None: there is none, and its result is an error that is known. Else as ``Answer``."""

    target: Target | None
    make: Make
    title: str = ""
    place: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call its target."""
        return title_of(self.target, self.title)

    def answer(self, result: ReleaseResult | MreleaseError) -> Answer:
        """What became of it."""
        return Answer(self.target, result, self.title, self.place)


def request_of(target: Target, *, kill: bool, arguments: dict[str, Any]) -> Make:
    """The request for a target by a client's method. ``arguments`` are that method's."""

    async def make(client: AsyncClient, request_id: str) -> ReleaseResult:
        method = client.kill_and_release if kill else client.release
        return await method(target, request_id=request_id, **arguments)

    return make


@dataclass(slots=True)
class Asking:
    """The requests of one command, and their results by their places in ``jobs``.

    With ``bars`` each is watched by an id: ``request_id``, the caller's own of the one that there is, or a new one. Without both it has
    none. ``is_dry``: nothing is to be watched.
    """

    jobs: Sequence[Job]
    bars: Bars | None = None
    request_id: str = ""
    is_dry: bool = False
    results: dict[int, ReleaseResult | MreleaseError] = field(default_factory=dict[int, "ReleaseResult | MreleaseError"])
    _ids: dict[int, str] = field(default_factory=dict[int, str])

    async def ask(self, client: AsyncClient, places: Iterable[int] | None = None) -> None:
        """Make these requests, or all, by one client, and wait for every answer."""
        slots = asyncio.Semaphore(_CONCURRENCY)
        await asyncio.gather(*(self._one(client, at, slots) for at in (range(len(self.jobs)) if places is None else places)))

    def close(self) -> None:
        """Wipe the bars."""
        if self.bars is not None:
            self.bars.close()

    @property
    def answers(self) -> list[Answer]:
        """The answers that have come, in the order of the jobs."""
        return [self.jobs[at].answer(self.results[at]) for at in sorted(self.results)]

    @property
    def open_ids(self) -> list[str]:
        """Ids of the requests that were made and not answered."""
        return [request_id for at, request_id in self._ids.items() if at not in self.results]

    async def _one(self, client: AsyncClient, at: int, slots: asyncio.Semaphore) -> None:
        async with slots:
            watcher = None
            request_id = self.request_id
            if self.bars is not None and not self.is_dry:
                request_id = request_id or str(uuid4())
                watcher = asyncio.create_task(self._watch(client, at, request_id, self.bars))
            if request_id:
                self._ids[at] = request_id
            try:
                self.results[at] = await self._make(client, at, request_id)
            except MreleaseError as error:
                self.results[at] = error
            finally:
                if watcher is not None:
                    watcher.cancel()
                    await asyncio.gather(watcher, return_exceptions=True)
                if self.bars is not None:
                    self.bars.end(at)

    async def _make(self, client: AsyncClient, at: int, request_id: str) -> ReleaseResult:
        try:
            return await self.jobs[at].make(client, request_id)
        except errors.InvalidField as refused:
            # An older agent has no ids. Nothing was signalled, and nobody but us asked for one.
            if self.request_id or not request_id or refused.metadata.get("field") not in _UNKNOWN_FIELD:
                raise
            del self._ids[at]
        return await self.jobs[at].make(client, "")

    async def _watch(self, client: AsyncClient, at: int, request_id: str, bars: Bars) -> None:
        await asyncio.sleep(DELAY)
        # What goes wrong here goes wrong with the request too, or concerns nobody.
        with contextlib.suppress(MreleaseError):
            async for news in client.watch_release(request_id, interval=INTERVAL):
                if isinstance(news, ReleaseProgress):
                    bars.show(at, self.jobs[at].name, news)
