"""Many agents at once, for programs without asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from mrelease._enums import Boost, Wait
from mrelease._fleet import AsyncFleet
from mrelease._fleet_models import FleetAnswer, Member, MemberLike, RequestLike
from mrelease._models import Group, Node, ProcessList, ReleaseResult
from mrelease._tls import TLS

ValueT = TypeVar("ValueT")
Answers: TypeAlias = Generator[FleetAnswer[ValueT], None, None]


class Fleet:
    """``AsyncFleet`` for programs without asyncio: the same arguments, answers and errors, and iterators that block.

    An event loop in a thread of its own makes the calls, from the first one until ``close``; requests that are a generator are taken in
    that thread. Threads may share a fleet, each with iterators of its own.
    """

    def __init__(
        self,
        members: Iterable[MemberLike] = (),
        *,
        tls: TLS | None = None,
        concurrency: int = 64,
        connections: int = 256,
        timeout: float | timedelta = 10.0,
    ) -> None:
        self._fleet = AsyncFleet(members, tls=tls, concurrency=concurrency, connections=connections, timeout=timeout)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, in the order in which they were given."""
        return self._fleet.members

    def kill_and_release(
        self,
        requests: Iterable[RequestLike],
        *,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reap_delay: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        grace_period: float | timedelta = 0,
        signal: str = "",
        boost: Boost = Boost.UNSPECIFIED,
        deadline: float | timedelta | None = None,
    ) -> Answers[ReleaseResult]:
        """Kill each target on its member and give its memory back: see ``AsyncFleet.kill_and_release``."""
        return self._iterate(
            self._fleet.kill_and_release(
                requests,
                wait=wait,
                timeout=timeout,
                reap_delay=reap_delay,
                reason=reason,
                validate_only=validate_only,
                grace_period=grace_period,
                signal=signal,
                boost=boost,
                deadline=deadline,
            )
        )

    def release(
        self,
        requests: Iterable[RequestLike],
        *,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        boost: Boost = Boost.UNSPECIFIED,
        deadline: float | timedelta | None = None,
    ) -> Answers[ReleaseResult]:
        """Give back the memory of targets that someone else has already killed: see ``AsyncFleet.release``."""
        return self._iterate(
            self._fleet.release(
                requests, wait=wait, timeout=timeout, reason=reason, validate_only=validate_only, boost=boost, deadline=deadline
            )
        )

    def get_node(self, members: Iterable[MemberLike] | None = None, *, deadline: float | timedelta | None = None) -> Answers[Node]:
        """Describe the nodes of ``members``, None: of all, and what their agents can do there."""
        return self._iterate(self._fleet.get_node(members, deadline=deadline))

    def list_processes(
        self,
        members: Iterable[MemberLike] | None = None,
        *,
        limit: int | None = 50,
        uid: int | None = None,
        within: Group | None = None,
        deadline: float | timedelta | None = None,
    ) -> Answers[ProcessList]:
        """List user processes of ``members``, None: of all, at most ``limit`` of each: see ``AsyncFleet.list_processes``."""
        return self._iterate(self._fleet.list_processes(members, limit=limit, uid=uid, within=within, deadline=deadline))

    def close(self) -> None:
        """Close every connection: see ``AsyncFleet.close``. Iterators that other threads are at end with ``RuntimeError``."""
        with self._lock:
            loop, thread, self._closed = self._loop, self._thread, True
            self._loop = None
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(self._fleet.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _iterate(self, answers: AsyncGenerator[FleetAnswer[ValueT], None]) -> Answers[ValueT]:
        # Who is interrupted while waiting leaves a turn of the generator behind, which has to end first.
        turn = asyncio.Lock()
        try:
            while (answer := self._run(_next(answers, turn))) is not None:
                yield answer
        finally:
            # Those of a closed fleet have ended with its loop.
            if not self._closed:
                self._run(_end(answers, turn))

    def _run(self, work: Coroutine[Any, Any, ValueT]) -> ValueT:
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError(_CLOSED)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # It keeps no program from ending that forgets to close the fleet.
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="mrelease-fleet", daemon=True)
                self._thread.start()
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        finally:
            future.cancel()


_CLOSED = "this fleet is closed"


async def _next(answers: AsyncGenerator[FleetAnswer[ValueT], None], turn: asyncio.Lock) -> FleetAnswer[ValueT] | None:
    async with turn:
        return await anext(answers, None)


async def _end(answers: AsyncGenerator[FleetAnswer[ValueT], None], turn: asyncio.Lock) -> None:
    async with turn:
        await answers.aclose()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, then end what still runs in it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
