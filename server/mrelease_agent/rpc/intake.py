"""How requests come in: how many of them are on their way at once, and how long that may take.

gRPC takes a message in whole, however slowly it comes, for as many streams as there are. Here a call is begun without its request, which is
read when its turn comes: so what unfinished requests hold is bounded, and who never finishes one is in nobody else's way.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any, Final

import grpc.aio

from mrelease.v1 import error_reason_pb2
from mrelease_agent.rpc.errors import RpcError, invalid

#: Longest request in bytes: 1,000 candidates of a Reclaim with 500 bytes each. All others are below 10 KiB.
MAX_REQUEST: Final = 512 * 1024
#: Requests that are read at once; all together hold at most so many times MAX_REQUEST.
_READS: Final = 64
#: Requests that wait for their turn.
_WAITING: Final = 2048
#: Seconds until a request has to be there; a usual one is sent with the call.
_PATIENCE: Final = 10.0
#: The same where others wait for their turn.
_HASTE: Final = 0.1


class Intake:
    """Reads requests in turns. Where they have to wait, connections take turns, as ``ServicerContext.peer()`` tells them apart."""

    def __init__(self) -> None:
        #: When the reading of each began, the one that began first in front.
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._seen: set[asyncio.Task[Any]] = set()
        #: By connection, the one that has waited longest for a turn in front.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._waiters = 0
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Any) -> bytes:
        """The request of a call. Raises RpcError: INVALID_ARGUMENT where none comes, RESOURCE_EXHAUSTED; CancelledError."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are tasks")
        loop = asyncio.get_running_loop()
        if len(self._reading) >= _READS or self._waiting:
            await self._turn(str(context.peer()))
        self._reading[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(_HASTE if self._waiters else _PATIENCE, self._sweep)
        try:
            request = await context.read()
        except asyncio.CancelledError:
            if task in self._late:
                raise invalid("request", f"is not whole after {_PATIENCE:g}s, or {_HASTE:g}s when others wait", "send it at once") from None
            raise
        finally:
            del self._reading[task]
            self._late.discard(task)
            self._next()
        if request is grpc.aio.EOF:
            raise invalid("request", "is missing", "send one message")
        return bytes(request)

    async def _turn(self, connection: str) -> None:
        loop = asyncio.get_running_loop()
        if self._waiters >= _WAITING:
            self._refuse_one()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(connection, deque()).append(turn)
        self._waiters += 1
        if self._waiters == 1:  # now there is haste
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(_HASTE, self._sweep)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # it came just now
                self._next()
            raise

    def _next(self) -> None:
        """Somebody's turn has come, if there is room."""
        while self._waiting and len(self._reading) < _READS:
            connection = next(iter(self._waiting))
            turn = self._pop(connection)
            if not turn.done():
                turn.set_result(None)
                return

    def _pop(self, connection: str) -> asyncio.Future[None]:
        queue = self._waiting[connection]
        turn = queue.popleft()
        self._waiters -= 1
        if queue:
            self._waiting.move_to_end(connection)
        else:
            del self._waiting[connection]
        return turn

    def _refuse_one(self) -> None:
        """Of the connection that has most."""
        most = max(self._waiting, key=lambda connection: len(self._waiting[connection]))
        turn = self._pop(most)
        if not turn.done():
            refusal = RpcError(
                error_reason_pb2.ERROR_REASON_AGENT_LIMIT,
                f"{_WAITING} requests wait to be read",
                "send them one after the other, each whole",
                limit="requests",
            )
            turn.set_exception(refusal)

    def _sweep(self) -> None:
        """End the reading of those whose time is over, and look again when the next one's may be."""
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._waiters:
            # Time alone does not count: in a starved process what has come may wait to be looked at. It was, between two sweeps.
            over = [task for task in self._reading if task in self._seen]
            self._seen = set(self._reading)
            self._timer = loop.call_later(_HASTE, self._sweep)
        else:
            self._seen.clear()
            end = loop.time() - _PATIENCE
            over = [task for task, begun in self._reading.items() if begun <= end]
            if self._reading:
                self._timer = loop.call_later(_PATIENCE / 10, self._sweep)
        for task in over:
            if task not in self._late:
                self._late.add(task)
                task.cancel()
