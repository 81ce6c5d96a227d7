"""The client for asyncio."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import TracebackType

import grpc
import grpc.aio

from mrelease import _codec
from mrelease._address import parse
from mrelease._channel import OPTIONS, Attempts
from mrelease._codec import Call, ResponseT, ValueT
from mrelease._enums import Wait
from mrelease._failure import Failure, to_error
from mrelease._models import Group, Node, NodeRef, ProcessList, ReleaseResult, Target


class AsyncClient:
    """``Client`` for asyncio: the same arguments, results and errors. Close it, or use it in an ``async with`` block.

    It belongs to the event loop in which its first call is made. Cancelling a task abandons the call; an operation that has begun runs
    to its end at the agent.
    """

    def __init__(self, address: str | None = None, *, timeout: float | timedelta = 10.0) -> None:
        self._address = parse(address)
        self._timeout = _codec.seconds("timeout", timeout)
        self._channel: grpc.aio.Channel | None = None
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
    ) -> ReleaseResult:
        """Send SIGKILL to the target and give its memory back now: see ``Client.kill_and_release``."""
        return await self._unary(
            _codec.kill_and_release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                reason=reason,
                validate_only=validate_only,
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
    ) -> ReleaseResult:
        """Give back the memory of a target that someone else has already killed: see ``Client.release``."""
        return await self._unary(
            _codec.release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reason=reason,
                validate_only=validate_only,
            )
        )

    async def get_node(self) -> Node:
        """Describe the node, and what the agent can do there: see ``Client.get_node``."""
        return await self._unary(_codec.get_node(self._timeout))

    async def list_processes(self, *, limit: int | None = 50, uid: int | None = None, within: Group | None = None) -> ProcessList:
        """List user processes, the one whose death gives most memory back first: see ``Client.list_processes``."""
        pages = _codec.list_processes(limit, uid, within, self._timeout)
        try:
            call = next(pages)
            while True:
                call = pages.send(await self._unary(call))
        except StopIteration as end:
            processes: ProcessList = end.value
            return processes

    async def close(self) -> None:
        """Close the connection: see ``Client.close``."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _unary(self, call: Call[ResponseT, ValueT]) -> ValueT:
        attempts = Attempts(call)
        while isinstance(answer := await self._attempt(call, attempts.seconds_left()), Failure):
            pause = attempts.pause_after(answer)
            if pause is None:
                raise to_error(answer, self._address, signals=call.signals)
            await asyncio.sleep(pause)
        return call.decode(answer)

    async def _attempt(self, call: Call[ResponseT, ValueT], seconds: float) -> ResponseT | Failure:
        method = self._connect().unary_unary(call.path, type(call.request).SerializeToString, call.response.FromString)
        try:
            return await method(call.request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            return Failure(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))

    def _connect(self) -> grpc.aio.Channel:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._channel is None:
            self._loop = loop
            self._channel = grpc.aio.insecure_channel(self._address.target, OPTIONS)
        elif self._loop is not loop:
            raise RuntimeError("this AsyncClient belongs to another event loop: make one in each loop")
        return self._channel
