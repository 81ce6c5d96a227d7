"""Operations in flight: bounded, outliving their callers, drained at shutdown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from mrelease.v1 import error_reason_pb2
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
T = TypeVar("T")


class Operations:
    """Runs each operation as a task of its own.

    gRPC cancels a handler when its caller gives up; what has sent SIGKILL must be followed to its end all the same.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def draining(self) -> bool:
        """Whether the agent is shutting down and takes no new operation."""
        return self._draining

    def admit(self) -> None:
        """Raise RpcError where no operation can be taken on: UNAVAILABLE while draining, RESOURCE_EXHAUSTED at the limit."""
        if self._draining:
            raise RpcError(
                error_reason_pb2.ERROR_REASON_SHUTTING_DOWN,
                "the agent is shutting down; nothing was signalled",
                "try again when it has been started again",
            )
        if len(self._tasks) >= self._limit:
            raise RpcError(
                error_reason_pb2.ERROR_REASON_AGENT_LIMIT,
                f"{self._limit} operations are in flight; nothing was signalled",
                "try again later, or raise max_operations",
                limit="max_operations",
            )

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, even where the caller of this is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        # A future of the caller's own instead of asyncio.shield(): that would let the event loop go round once more before the answer.
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(_answered(work, answer))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                _report_defect(answer)
            else:
                task.add_done_callback(_report_defect)
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)

    async def drain(self, timeout: float) -> int:
        """Take no more and wait up to ``timeout`` seconds for those in flight; the number that is left."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        return len(self._tasks)


async def _answered(work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
    """Put into ``answer`` what becomes of ``work``; raise it where nobody waits for that any more."""
    try:
        result = await work
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except Exception as error:
        if answer.done():
            raise
        answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)


def _report_defect(ended: asyncio.Future[Any]) -> None:
    """Nobody waits any more: an unexpected exception, which would have been the caller's INTERNAL, is at least in the log."""
    error = None if ended.cancelled() else ended.exception()
    if error is not None and not isinstance(error, RpcError):
        event(_log, logging.ERROR, "internal error", exc_info=error, caller="gone")
