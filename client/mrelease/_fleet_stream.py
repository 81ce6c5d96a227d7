"""One stream of answers of a fleet: so many requests under way at once, so many answers waiting to be taken, and each has its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import grpc

from mrelease import errors
from mrelease._fleet_models import FleetAnswer, Member
from mrelease._models import Target
from mrelease.resolvers import Placement

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: of a target, or of the member itself.

    ``is_own_id``: the caller has chosen ``request_id``; ``placement``: what a resolver has said of the target.
    """

    member: Member
    target: Target | None = None
    request_id: str = ""
    is_own_id: bool = False
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """``slots``: calls of the whole fleet at once; ``room``: requests of this stream whose answers nobody has taken.

    ``timeout``: seconds for the work on one request, ``deadline``: for all of them, None: its own. ``signals``: it may kill something.
    """

    slots: asyncio.Semaphore
    room: int
    timeout: float | None
    deadline: float | None
    signals: bool


class Stream(Generic[ValueT]):
    """The answers to ``asks``, each made by ``work``."""

    def __init__(self, asks: Iterable[Ask], work: Callable[[Ask], Awaitable[ValueT]], bounds: Bounds) -> None:
        self._asks: Iterator[Ask] | None = iter(asks)
        self._work, self._bounds = work, bounds
        self._ready: asyncio.Queue[FleetAnswer[ValueT] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Requests that were taken from ``asks`` and whose answers were not taken.
        self._open = 0
        #: What is wrong with more than one member.
        self._broken: Exception | None = None
        self._end: float | None = None

    async def answers(self) -> AsyncGenerator[FleetAnswer[ValueT], None]:
        """As they come. Raises what ``asks`` and ``work`` raise that is no MreleaseError, when every request that was begun is answered."""
        if self._bounds.deadline is not None:
            self._end = asyncio.get_running_loop().time() + self._bounds.deadline
        try:
            self._begin()
            while self._open:
                answer = await self._ready.get()
                self._open -= 1
                if answer is not None:
                    yield answer
                self._begin()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._broken is not None:
            raise self._broken

    def _begin(self) -> None:
        """Begin as many requests as there is room for answers."""
        while self._asks is not None and self._broken is None and self._open < self._bounds.room:
            try:
                ask = next(self._asks, None)
            except Exception as error:
                self._broken = error
                return
            if ask is None:
                self._asks = None
                return
            self._open += 1
            task = asyncio.create_task(self._run(ask))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, ask: Ask) -> None:
        answer = None
        try:
            async with self._bounds.slots:
                loop = asyncio.get_running_loop()
                begun = loop.time()
                result = await self._result(ask)
                taken = timedelta(seconds=loop.time() - begun)
            answer = FleetAnswer(ask.member, ask.target, result, ask.request_id, taken)
        except Exception as error:
            self._broken = self._broken or error
        finally:
            self._ready.put_nowait(answer)

    async def _result(self, ask: Ask) -> ValueT | errors.MreleaseError:
        now = asyncio.get_running_loop().time
        left = None if self._end is None else self._end - now()
        if left is not None and left <= 0:
            return self._too_late(f"{ask.member.name} was not asked: the deadline of the whole had passed", nothing_signalled=True)
        seconds = min((value for value in (left, self._bounds.timeout) if value is not None), default=None)
        until = None if seconds is None else now() + seconds
        try:
            return await (self._work(ask) if seconds is None else asyncio.wait_for(self._work(ask), seconds))
        except errors.MreleaseError as error:
            return error
        except asyncio.TimeoutError:
            if until is None or now() < until:
                raise
            return self._too_late(f"no answer of {ask.member.name} by the deadline", nothing_signalled=not self._bounds.signals)

    def _too_late(self, message: str, *, nothing_signalled: bool) -> errors.DeadlineExceeded:
        remedy = "make the call again" if nothing_signalled else ""
        code = grpc.StatusCode.DEADLINE_EXCEEDED
        return errors.DeadlineExceeded(message, code=code, remedy=remedy, nothing_signalled=nothing_signalled)
