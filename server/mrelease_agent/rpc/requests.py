"""Operations by their caller and the request_id that it chose (AIP-155): joined while they run, repeated after, watched at any time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mrelease.v1 import error_reason_pb2, result_pb2
from mrelease_agent.reaping.progress import Progress
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.telemetry import trace_context
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
#: Who asked, and the request_id that they chose.
Key = tuple[str, str]
Work = Callable[[Progress], Coroutine[Any, Any, result_pb2.ReleaseResult]]
#: Bytes of results that are kept at most, the oldest dropped first: a thousand processes make some 300 KiB.
MAX_BYTES: Final = 16 * 1024 * 1024


class Entry:
    """One operation, running or finished."""

    def __init__(self, fingerprint: bytes, task: asyncio.Task[result_pb2.ReleaseResult], progress: Progress) -> None:
        self.fingerprint = fingerprint
        self.task = task
        self.progress = progress
        #: Where the call belongs that began it.
        self.trace = trace_context.current.get()
        self.ended = 0.0
        self.size = 0


class Requests:
    """Operations that have a request_id. A request that failed did nothing, and is forgotten: the next one with its id is a new one.

    ``ttl``: seconds for which a result is kept; ``limit``: how many are kept at most. Belongs to the event loop.
    """

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        #: Running and finished, in the order in which they finished, those that run first.
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._bytes = 0
        self._begun = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, fingerprint: bytes) -> Entry | None:
        """The operation of this very request; None where there is none. Raises RpcError (ALREADY_EXISTS) where it is another's."""
        self._expire()
        entry = self._entries.get(key)
        if entry is not None and entry.fingerprint != fingerprint:
            raise RpcError(
                error_reason_pb2.ERROR_REASON_REQUEST_ID_REUSED,
                f"request_id {key[1]} was another request's; nothing was signalled",
                "give every request an id of its own, and repeat a request exactly as it was",
                request_id=key[1],
            )
        return entry

    def begin(self, key: Key, fingerprint: bytes, work: Work) -> Entry:
        """Begin an operation that find() did not find."""
        progress = Progress()
        task = asyncio.get_running_loop().create_task(work(progress))
        entry = self._entries[key] = Entry(fingerprint, task, progress)
        self._entries.move_to_end(key, last=False)
        task.add_done_callback(lambda _: self._end(key, entry))
        self._begun.set()
        self._begun = asyncio.Event()
        return entry

    async def wait_for(self, key: Key, seconds: float) -> Entry:
        """The operation with this id; one that has not begun is waited for. Raises RpcError (NOT_FOUND)."""
        until = time.monotonic() + seconds
        while True:
            self._expire()
            entry = self._entries.get(key)
            if entry is not None:
                return entry
            left = until - time.monotonic()
            if left <= 0:
                raise RpcError(
                    error_reason_pb2.ERROR_REASON_OPERATION_NOT_FOUND,
                    f"no operation with request_id {key[1]} runs here, and no result of one is kept",
                    "results are kept for `result_ttl`; Release with the same target tells what is left",
                    request_id=key[1],
                )
            begun = self._begun
            try:
                await asyncio.wait_for(begun.wait(), left)
            except asyncio.TimeoutError:
                continue

    def _end(self, key: Key, entry: Entry) -> None:
        error = None if entry.task.cancelled() else entry.task.exception()
        if entry.task.cancelled() or error is not None:
            del self._entries[key]
            if error is not None and not isinstance(error, RpcError):  # the callers may all be gone
                event(_log, logging.ERROR, "internal error", exc_info=error, request_id=key[1])
            return
        entry.ended = time.monotonic()
        entry.size = entry.task.result().ByteSize()
        entry.progress = Progress()  # a finished operation has no use for its processes
        self._bytes += entry.size
        self._entries.move_to_end(key)
        self._expire()

    def _expire(self) -> None:
        now = time.monotonic()
        finished = len(self._entries)
        for key, entry in list(self._entries.items()):
            if not entry.ended:
                finished -= 1
                continue
            if now - entry.ended < self._ttl and finished <= self._limit and self._bytes <= MAX_BYTES:
                break
            del self._entries[key]
            self._bytes -= entry.size
            finished -= 1
