"""Reaper threads: where calls into the kernel that may block without bound are made, never on the event loop.

process_mrelease(2) waits for the victim's mmap_lock and only SIGKILL to the caller would wake it, so a thread can be lost to it. One
that is at work on a call for longer than ``STUCK_AFTER`` counts as stuck and is replaced, up to a bound; it retires when its call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from mrelease_agent.linux.own_thread import Refusal, ThreadScheduling

T = TypeVar("T")

#: Seconds in one call after which a thread counts as stuck. Reaping runs at some 10 GiB/s: even a huge victim only costs a spare thread.
STUCK_AFTER: Final = 1.0


class NotStartedError(TimeoutError):
    """No thread was free by the deadline."""


class _Job(Generic[T]):
    def __init__(self, call: Callable[[], T], cleanup: Callable[[], None]) -> None:
        self.call = call
        self.cleanup = cleanup
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()
        self.started = False
        self.cancelled = False
        self.ended = False
        self.replaced = False

    def finish(self, result: T | None, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)  # type: ignore[arg-type]


class Reapers:
    """A pool of daemon threads, all made at once: memory for a new thread may be missing when it is needed.

    Each thread gives itself ``scheduling`` when it starts, since the kernel frees at the priority of whoever calls it. ``warn`` hears once
    of what the kernel refused, ``tell_cpu`` of the CPU seconds of each call: both on the threads.
    """

    def __init__(
        self,
        threads: int,
        max_stuck: int,
        scheduling: ThreadScheduling | None = None,
        *,
        warn: Callable[[Refusal], None] = lambda _refusal: None,
        tell_cpu: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._threads = threads
        self._max_stuck = max_stuck
        self._scheduling = scheduling
        self._refused: set[Refusal] = set()
        self._warn = warn
        self._tell_cpu = tell_cpu
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._live = self._busy = self._stuck = 0
        for _ in range(threads):
            self._start_thread()

    def states(self) -> Mapping[str, int]:
        """Number of threads by state: ``idle``, ``busy``, ``stuck``."""
        with self._lock:
            return {"idle": max(0, self._live - self._busy), "busy": self._busy - self._stuck, "stuck": self._stuck}

    @property
    def exhausted(self) -> bool:
        """Whether every thread is stuck and no other can be made: at the bound on replacements, or at a limit of the process."""
        with self._lock:
            if self._stuck < self._live:
                return False
            replace = self._live < self._threads + self._max_stuck
        if replace:
            self._start_thread()  # it could not be made when the last one got stuck
        with self._lock:
            return self._stuck >= self._live

    async def run(self, call: Callable[[], T], timeout: float, cleanup: Callable[[], None] = lambda: None) -> T:
        """Run ``call`` on a thread; ``cleanup`` runs once when the call has returned or is known never to start, also long after.

        Raises TimeoutError after ``timeout`` seconds: a call in the kernel goes on there; NotStartedError: it never will be made.
        """
        job = _Job(call, cleanup)
        watch = job.loop.call_later(STUCK_AFTER, self._watch, job)
        self._jobs.put(job)
        try:
            return await asyncio.wait_for(asyncio.shield(job.future), timeout)
        except asyncio.TimeoutError:
            raise (TimeoutError if job.started else NotStartedError) from None
        finally:
            if not job.future.done():
                with self._lock:
                    job.cancelled = not job.started
                if job.cancelled:
                    cleanup()
                    watch.cancel()
                else:
                    # Nobody waits any more: its error, if any, was somebody else's to see.
                    job.future.add_done_callback(lambda future: future.cancelled() or future.exception())
            else:
                watch.cancel()

    def close(self) -> None:
        """Let idle threads end. Stuck ones end with the process: they are daemons."""
        with self._lock:
            count = self._live
        for _ in range(count):
            self._jobs.put(None)

    def _start_thread(self) -> None:
        with self._lock:
            self._live += 1
        try:
            threading.Thread(target=self._work, name="reaper", daemon=True).start()
        except RuntimeError:  # no memory or RLIMIT_NPROC: the pool is smaller, the others go on
            with self._lock:
                self._live -= 1

    def _watch(self, job: _Job[Any]) -> None:
        """On the event loop, STUCK_AFTER seconds after a job was queued: replace its thread if it is in the call."""
        if job.future.done():
            return
        with self._lock:
            if job.cancelled or job.ended:
                return
            if not job.started:
                job.loop.call_later(STUCK_AFTER, self._watch, job)
                return
            job.replaced = True
            self._stuck += 1
            replace = self._live < self._threads + self._max_stuck
        if replace:
            self._start_thread()

    def _settle(self) -> None:
        for refusal in self._scheduling.apply() if self._scheduling else ():
            with self._lock:
                is_new = refusal not in self._refused
                self._refused.add(refusal)
            if is_new:
                self._warn(refusal)

    def _work(self) -> None:
        self._settle()
        while (job := self._jobs.get()) is not None:
            with self._lock:
                if job.cancelled:
                    continue
                job.started = True
                self._busy += 1
            result, error = None, None
            began = time.thread_time()
            try:
                result = job.call()
            except BaseException as raised:
                error = raised
            spent = time.thread_time() - began
            job.cleanup()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                job.loop.call_soon_threadsafe(job.finish, result, error)
            self._tell_cpu(spent)
            with self._lock:
                job.ended = True
                self._busy -= 1
                if job.replaced:
                    self._stuck -= 1
                if self._live > self._threads + self._stuck:
                    self._live -= 1
                    return
            del job, result, error
        with self._lock:
            self._live -= 1
