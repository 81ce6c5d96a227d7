"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from datetime import timedelta
from types import TracebackType

import grpc
import grpc.aio

from mrelease import _calls, _messages, _trace
from mrelease._address import parse
from mrelease._calls import Call, ResponseT, StreamCall, ValueT
from mrelease._channel import Attempts, Channels
from mrelease._enums import Boost, Wait
from mrelease._failure import Failure, to_error
from mrelease._memory_models import MemorySample, PressureTrigger
from mrelease._models import Cgroup, Container, Group, Node, NodeRef, ProcessList, ReleaseResult, Target
from mrelease._release_models import PressureGoal, ReclaimEvent, ReleaseProgress
from mrelease._streaming import aiterate
from mrelease._tls import TLS


class AsyncClient:
    """``Client`` for asyncio: the same arguments, results and errors. Close it, or use it in an ``async with`` block.

    It belongs to the event loop in which its first call is made. Cancelling a task abandons the call; an operation that has begun runs
    to its end at the agent.
    """

    def __init__(self, address: str | None = None, *, tls: TLS | None = None, timeout: float | timedelta = 10.0) -> None:
        self._address = parse(address, tls=tls)
        self._timeout = _messages.seconds("timeout", timeout)
        self._channels = Channels[grpc.aio.Channel](self._address, grpc.aio.insecure_channel, grpc.aio.secure_channel, self._close_old)
        self._closing: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """The address in use."""
        return self._address.text

    async def kill_and_release(
        self,
        target: Target,
        *,
        node: NodeRef | None = None,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reap_delay: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        request_id: str = "",
        grace_period: float | timedelta = 0,
        signal: str = "",
        boost: Boost = Boost.UNSPECIFIED,
    ) -> ReleaseResult:
        """Send SIGKILL to the target and give its memory back now: see ``Client.kill_and_release``."""
        return await self._unary(
            _calls.kill_and_release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                reason=reason,
                validate_only=validate_only,
                request_id=request_id,
                grace_period=grace_period,
                signal=signal,
                boost=boost,
            )
        )

    async def release(
        self,
        target: Target,
        *,
        node: NodeRef | None = None,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        request_id: str = "",
        boost: Boost = Boost.UNSPECIFIED,
    ) -> ReleaseResult:
        """Give back the memory of a target that someone else has already killed: see ``Client.release``."""
        return await self._unary(
            _calls.release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reason=reason,
                validate_only=validate_only,
                request_id=request_id,
                boost=boost,
            )
        )

    def watch_release(
        self, request_id: str, *, interval: float | timedelta | None = None, timeout: float | timedelta | None = None
    ) -> AsyncGenerator[ReleaseProgress | ReleaseResult, None]:
        """Follow an operation by the ``request_id`` of its call: how much memory is still held, then its result as the last value.

        ``interval``: seconds between two values, 0.01 to 60; None: 0.2 s. ``timeout``: seconds after which it ends with
        ``DeadlineExceeded``; None: never. Attaches to a finished operation, too, as long as the agent keeps its result. Raises
        ``errors.AgentError``: ``OperationNotFound``, and that with which the operation itself fails.
        """
        return self._stream(_calls.watch_release(request_id, interval, timeout))

    def reclaim(
        self,
        candidates: Iterable[Target],
        *,
        released_bytes: int | None = None,
        available_bytes: int | None = None,
        pressure_below: PressureGoal | None = None,
        node: NodeRef | None = None,
        timeout: float | timedelta | None = None,
        reap_delay: float | timedelta | None = None,
        grace_period: float | timedelta = 0,
        signal: str = "",
        boost: Boost = Boost.UNSPECIFIED,
        reason: str = "",
        validate_only: bool = False,
        deadline: float | timedelta | None = None,
    ) -> AsyncGenerator[ReclaimEvent, None]:
        """Kill ``candidates`` in this order until the goal is met: the next only when what the last held is back, or diagnosed as held.

        The goal is one of ``released_bytes`` proven back by this call, ``available_bytes`` of the node, and ``pressure_below``.
        ``timeout``: how long to wait for the memory of each; ``deadline``: seconds for the whole, None: none. ``validate_only``: signal
        nothing, and say who would die. The others are those of ``kill_and_release``. The last value is a ``ReclaimSummary``.

        The call begins when the first value is asked for. When the iterator is closed, no further candidate is killed. Raises
        ``errors.AgentError``, and ``ValueError`` unless exactly one goal is given.
        """
        return self._stream(
            _calls.reclaim(
                candidates,
                released_bytes=released_bytes,
                available_bytes=available_bytes,
                pressure_below=pressure_below,
                node=node,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                grace_period=grace_period,
                signal=signal,
                boost=boost,
                reason=reason,
                validate_only=validate_only,
                deadline=deadline,
            )
        )

    async def get_node(self) -> Node:
        """Describe the node, and what the agent can do there: see ``Client.get_node``."""
        return await self._unary(_calls.get_node(self._timeout))

    async def list_processes(self, *, limit: int | None = 50, uid: int | None = None, within: Group | None = None) -> ProcessList:
        """List user processes, the one whose death gives most memory back first: see ``Client.list_processes``."""
        pages = _calls.list_processes(limit, uid, within, self._timeout)
        try:
            call = next(pages)
            while True:
                call = pages.send(await self._unary(call))
        except StopIteration as end:
            processes: ProcessList = end.value
            return processes

    def watch_memory(
        self,
        *,
        interval: float | timedelta | None = None,
        within: Container | Cgroup | None = None,
        trigger: PressureTrigger | None = None,
        timeout: float | timedelta | None = None,
    ) -> AsyncGenerator[MemorySample, None]:
        """Watch memory and memory pressure, ``async for sample in client.watch_memory()``: see ``Client.watch_memory``."""
        return self._stream(_calls.watch_memory(interval, within, trigger, timeout))

    async def close(self) -> None:
        """Close the connection: see ``Client.close``."""
        self._closed = True
        for channel in self._channels.all():
            await channel.close()
        await asyncio.gather(*self._closing)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _unary(self, call: Call[ResponseT, ValueT]) -> ValueT:
        attempts = Attempts(call)
        while isinstance(answer := await self._attempt(call, attempts.seconds_left()), Failure):
            pause = attempts.pause_after(answer)
            if pause is None:
                raise to_error(answer, self._address, signals=call.signals, request=call.request)
            await asyncio.sleep(pause)
        return call.decode(answer)

    def _stream(self, call: StreamCall[ResponseT, ValueT]) -> AsyncGenerator[ValueT, None]:
        self._check_usable()
        return aiterate(call, self._channels, self._address)

    async def _attempt(self, call: Call[ResponseT, ValueT], seconds: float) -> ResponseT | Failure:
        self._check_usable()
        with self._channels.use() as channel:
            method = channel.unary_unary(call.path, type(call.request).SerializeToString, call.response.FromString)
            try:
                return await method(call.request, timeout=seconds, metadata=_trace.metadata())
            except grpc.aio.AioRpcError as error:
                return Failure(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))

    def _check_usable(self) -> None:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this AsyncClient belongs to another event loop: make one in each loop")

    def _close_old(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
