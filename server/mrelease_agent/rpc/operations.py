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
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
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


def _report_defect(task: asyncio.Task[Any]) -> None:
    """Nobody waits any more: an unexpected exception, which would have been the caller's INTERNAL, is at least in the log."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, RpcError):
        event(_log, logging.ERROR, "internal error", exc_info=error, caller="gone")
