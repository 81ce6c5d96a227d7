"""Many agents at once, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import TypeAlias, TypeVar
from uuid import uuid4

from mrelease import _messages
from mrelease._async_client import AsyncClient
from mrelease._calls import MARGIN
from mrelease._enums import Boost, Wait
from mrelease._fleet_clients import Clients
from mrelease._fleet_models import FleetAnswer, Member, MemberLike, Members, RequestLike, check_node
from mrelease._fleet_repeating import repeated
from mrelease._fleet_stream import Ask, Bounds, Stream
from mrelease._models import Group, Node, ProcessList, ReleaseResult, Target
from mrelease._tls import TLS
from mrelease.resolvers import Placement
from mrelease.resolvers._acting import identified

ValueT = TypeVar("ValueT")
Answers: TypeAlias = AsyncGenerator[FleetAnswer[ValueT], None]


class AsyncFleet:
    """Many agents at once. Close it, or use it in an ``async with`` block.

    ``members``: addresses, an ``Agent`` or ``Placement`` of a resolver, or a ``Member`` each. ``tls``: for members that name none of their
    own, as of ``Client``. ``concurrency``: calls under way at once. ``connections``: kept open for the next call, at most; the least
    recently used ones are closed first. ``timeout``: seconds or a ``timedelta``, for calls that do not name their own.

    Each method returns an asynchronous iterator of ``FleetAnswer``, in the order in which they come. What is wrong with one member is the
    ``error`` of its answer, and of no other's: ``errors.AgentError``, ``InvalidAddress``, ``InvalidTLS``, or the ``ResolutionError`` of a
    placement. There is one answer for each request, whatever happens; none is kept, and while nobody takes the answers, no more than
    ``concurrency`` are asked for. The calls begin when the first answer is asked for. When the iterator is closed, calls under way are
    abandoned; an operation that has begun runs to its end at its agent.

    ``timeout`` of a method is for each member, from when it is asked; ``deadline``, in seconds from the first answer that is asked for, for
    all of them: then every member that has not answered has ``DeadlineExceeded``, with ``nothing_signalled`` where it was not asked.

    Reads are made again a few times while an agent is unreachable. A kill or release is, for up to 5 s, where it certainly was not begun:
    there was no connection, or the agent is shutting down. Where its answer is lost the agent is asked for the result by the
    ``request_id``, and nothing is asked for twice.

    It belongs to the event loop in which its first call is made. Raises ``ValueError`` and ``TypeError`` for arguments that are wrong for
    every member: of the methods' requests after the answers of those that were begun.
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
        for name, value in (("concurrency", concurrency), ("connections", connections)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1: {value}")
        self._members = Members([members] if isinstance(members, str) else members, tls)
        self._timeout = _messages.seconds("timeout", timeout)
        self._concurrency = concurrency
        self._clients = Clients(max(connections, concurrency), self._timeout)
        self._slots = asyncio.Semaphore(concurrency)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, in the order in which they were given."""
        return self._members.all

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
        """Kill each target on its member and give its memory back: ``Client.kill_and_release``, many times.

        ``requests``: pairs of member and target, placements of a resolver, or a ``FleetRequest`` each; a ``str`` for a member is a member's
        name. They are taken as there is room for them, so it may be a generator of very many.
        """
        seconds = self._seconds(timeout) + _messages.seconds("grace_period", grace_period) + MARGIN

        async def kill(client: AsyncClient, ask: Ask, target: Target) -> ReleaseResult:
            async def make(request_id: str) -> ReleaseResult:
                return await client.kill_and_release(
                    target,
                    node=ask.member.node,
                    wait=wait,
                    timeout=self._seconds(timeout),
                    reap_delay=reap_delay,
                    reason=reason,
                    validate_only=validate_only,
                    request_id=request_id,
                    grace_period=grace_period,
                    signal=signal,
                    boost=boost,
                )

            return await repeated(client, make, ask.request_id, needed=ask.is_own_id, seconds=seconds)

        return self._ask_targets(requests, kill, deadline, signals=not validate_only, named=not validate_only)

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
        """Give back the memory of targets that someone else has already killed: ``Client.release``, many times."""

        async def release(client: AsyncClient, ask: Ask, target: Target) -> ReleaseResult:
            async def make(request_id: str) -> ReleaseResult:
                return await client.release(
                    target,
                    node=ask.member.node,
                    wait=wait,
                    timeout=self._seconds(timeout),
                    reason=reason,
                    validate_only=validate_only,
                    request_id=request_id,
                    boost=boost,
                )

            return await repeated(client, make, ask.request_id, needed=ask.is_own_id, seconds=self._seconds(timeout) + MARGIN)

        return self._ask_targets(requests, release, deadline, signals=False, named=not validate_only)

    def get_node(self, members: Iterable[MemberLike] | None = None, *, deadline: float | timedelta | None = None) -> Answers[Node]:
        """Describe the nodes of ``members``, None: of all, and what their agents can do there."""

        async def ask(client: AsyncClient, member: Member) -> Node:
            node = await client.get_node()
            check_node(member, node.identity)
            return node

        return self._ask_members(members, ask, deadline)

    def list_processes(
        self,
        members: Iterable[MemberLike] | None = None,
        *,
        limit: int | None = 50,
        uid: int | None = None,
        within: Group | None = None,
        deadline: float | timedelta | None = None,
    ) -> Answers[ProcessList]:
        """List user processes of ``members``, None: of all, at most ``limit`` of each: ``Client.list_processes``, many times."""

        async def ask(client: AsyncClient, member: Member) -> ProcessList:
            found = await client.list_processes(limit=limit, uid=uid, within=within)
            check_node(member, found.node)
            return found

        return self._ask_members(members, ask, deadline)

    def each(
        self,
        work: Callable[[AsyncClient, Member], Awaitable[ValueT]],
        members: Iterable[MemberLike] | None = None,
        *,
        timeout: float | timedelta | None = None,
        deadline: float | timedelta | None = None,
    ) -> Answers[ValueT]:
        """What ``work`` gives for each of ``members``, None: for all, with a client that it must neither close nor keep.

        ``timeout``: seconds for the whole work at one member; None: that of its calls. It is not made again, and nothing but what it passes
        as ``node`` keeps it from another node. What it raises is the answer where it is an ``MreleaseError``; anything else is raised after
        the answers of those that were begun.
        """
        seconds = None if timeout is None else _messages.seconds("timeout", timeout)
        return self._ask_members(members, work, deadline, timeout=seconds, signals=True)

    async def close(self) -> None:
        """Close every connection. Calls under way end with ``Cancelled``; their operations run to their end at their agents."""
        self._closed = True
        await self._clients.close()

    async def __aenter__(self) -> AsyncFleet:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _ask_targets(
        self,
        requests: Iterable[RequestLike],
        work: Callable[[AsyncClient, Ask, Target], Awaitable[ReleaseResult]],
        deadline: float | timedelta | None,
        *,
        signals: bool,
        named: bool,
    ) -> Answers[ReleaseResult]:
        async def ask(ask: Ask) -> ReleaseResult:
            assert ask.target is not None
            async with self._client(ask.member) as client:
                target = ask.target if ask.placement is None else await identified(client, ask.placement)
                return await work(client, ask, target)

        def asks() -> Iterator[Ask]:
            for each in requests:
                request = self._members.request(each)
                request_id = request.request_id or (str(uuid4()) if named else "")
                placement = each if isinstance(each, Placement) else None
                yield Ask(self._members.find(request.member), request.target, request_id, bool(request.request_id), placement)

        return self._stream(asks(), ask, deadline, None, signals=signals)

    def _ask_members(
        self,
        members: Iterable[MemberLike] | None,
        work: Callable[[AsyncClient, Member], Awaitable[ValueT]],
        deadline: float | timedelta | None,
        *,
        timeout: float | None = None,
        signals: bool = False,
    ) -> Answers[ValueT]:
        async def ask(ask: Ask) -> ValueT:
            async with self._client(ask.member) as client:
                return await work(client, ask.member)

        return self._stream(map(Ask, self._members.chosen(members)), ask, deadline, timeout, signals=signals)

    def _stream(
        self,
        asks: Iterable[Ask],
        work: Callable[[Ask], Awaitable[ValueT]],
        deadline: float | timedelta | None,
        timeout: float | None,
        *,
        signals: bool,
    ) -> Answers[ValueT]:
        whole = None if deadline is None else _messages.seconds("deadline", deadline)
        return Stream(asks, work, Bounds(self._slots, self._concurrency, timeout, whole, signals)).answers()

    @asynccontextmanager
    async def _client(self, member: Member) -> AsyncGenerator[AsyncClient, None]:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError("this fleet is closed")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this AsyncFleet belongs to another event loop: make one in each loop")
        async with self._clients.use(member) as client:
            yield client

    def _seconds(self, timeout: float | timedelta | None) -> float:
        return self._timeout if timeout is None else _messages.seconds("timeout", timeout)
