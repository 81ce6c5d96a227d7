"""Threads, made before they are needed: at a limit (pids.max, RLIMIT_NPROC, memory) no other can be had, and no request should notice."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

#: For what asyncio.to_thread() is asked for: searches of /proc and of the cgroups, of which many at once would only hinder each other.
_WORKERS: Final = 4
#: gRPC makes a thread for each CPU, 4 to 16, and a few of its own; where it cannot, it ends the process (event_engine/thread_pool).
_GRPC: Final = max(4, min(16, os.cpu_count() or 1)) + 4
#: Log, audit log, HTTP and one answer over it, boosts and diagnoses.
_OTHERS: Final = 6


def need_threads(reapers: int) -> None:
    """Find out whether this process can have the threads of an agent with so many reapers; none is left behind.

    Raises OSError that says what to change.
    """
    needed = _WORKERS + _GRPC + _OTHERS + reapers
    gate = threading.Event()
    made: list[threading.Thread] = []
    try:
        for _ in range(needed):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            made.append(thread)
    except RuntimeError:
        raise OSError(
            f"the agent needs {needed} threads and can have {len(made)}: raise pids.max of its cgroup (TasksMax= of systemd) or "
            "RLIMIT_NPROC of its user, or lower reaper_threads"
        ) from None
    finally:
        gate.set()
        for thread in made:
            thread.join()


def workers() -> ThreadPoolExecutor:
    """An executor whose threads run already."""
    executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="worker")
    gate = threading.Barrier(_WORKERS + 1)  # a thread is made for each call that finds none idle
    for _ in range(_WORKERS):
        executor.submit(gate.wait)
    gate.wait()
    return executor
