"""Why the memory of a process that was killed is not back: a look around, for a bounded time, that neither pins it nor waits for it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from errno import EAGAIN, ESRCH
from typing import Final

from mrelease_agent.linux.budget import Budget, Clock
from mrelease_agent.linux.freezing import REFRIGERATOR, Freeze, freeze_of
from mrelease_agent.linux.memory_readers import Readers, readers_of
from mrelease_agent.linux.own_calls import waits_to_release
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.threads import Scheduling, ThreadState, keeper, least_cpu_share, scheduling, thread_states, wait_channel
from mrelease_agent.reaping.held import Diagnosis, words
from mrelease_agent.reaping.outcome import HeldCause

__all__ = ["Diagnosis", "diagnose", "words"]

#: Share of the time for the threads: the readers are looked for in what is left.
_FOR_THREADS: Final = 0.4
#: Seconds for which the CPU time of a runnable process is measured, and the least that tells anything: several ticks of the scheduler.
_SAMPLE: Final = 0.05
_LEAST_SAMPLE: Final = 0.02
#: Below this share of a CPU a runnable process is starved.
_STARVED: Final = 0.5
#: Causes behind which there may be who reads the memory, and answers of process_mrelease(2) that leave it open.
_BY_READERS: Final = frozenset({HeldCause.PINNED, HeldCause.MMAP_LOCK})
_PERHAPS_PINNED: Final = frozenset({ESRCH, EAGAIN})


def diagnose(
    ref: ProcessRef,
    *,
    errno: int,
    exited: bool,
    sharers: Sequence[int],
    stuck: bool,
    no_reaper: bool,
    can_release: bool,
    held_bytes: int,
    seconds: float = 0.25,
    clock: Clock = time.monotonic,
) -> Diagnosis:
    """Find out what holds the memory of ``ref``, in ``seconds`` of ``clock`` and a little; a partial answer rather than none.

    ``errno``: the last answer of process_mrelease(2); ``exited``: the pidfd is readable; ``sharers``: living processes with the same
    address space; ``stuck``: the call has not returned; ``no_reaper``: no thread was free to make it; ``can_release``: it can be called
    here; ``held_bytes``: not proven back. With 0 seconds neither CPU time is measured nor readers are looked for.

    Sleeps and reads files: belongs on a thread. Raises nothing.
    """
    budget = Budget(seconds, clock)
    threads: list[ThreadState] = []
    freeze: Freeze | None = None
    lock: bool | None = False
    with contextlib.suppress(OSError):
        threads = [] if exited else thread_states(ref.proc, budget.part(_FOR_THREADS))
    kept = keeper(threads)
    with contextlib.suppress(OSError):
        freeze = freeze_of(ref.proc, kept.tid) if kept and kept.state in ("D", "S") else None
    with contextlib.suppress(OSError):
        lock = waits_to_release(ref) if stuck else False
    wchan = _wchan(ref.proc, kept)
    frozen = _is_frozen(freeze, kept, wchan)
    # What shows without a search or a measurement, the most certain first.
    shows = (
        (bool(sharers), HeldCause.SHARED_MM),
        (exited and held_bytes > 0, HeldCause.PINNED),
        (exited, HeldCause.UNSPECIFIED),
        (any(thread.core_dumping for thread in threads), HeldCause.CORE_DUMP),
        (no_reaper, HeldCause.NO_REAPER),
        (not can_release, HeldCause.UNSUPPORTED),
        (lock is not False, HeldCause.MMAP_LOCK),
        (frozen, HeldCause.FROZEN),
        (kept is not None and kept.state == "D", HeldCause.UNINTERRUPTIBLE),
        (kept is not None and kept.state == "t", HeldCause.TRACED),
    )
    cause = next((each for is_so, each in shows if is_so), None)
    readers = Readers((), complete=True)
    if cause in _BY_READERS or (cause is None and errno in _PERHAPS_PINNED and not _runnable(threads)):
        readers = _readers(ref, budget)
        if cause is None and (readers.found or errno == EAGAIN):
            cause = HeldCause.PINNED
    share: float | None = None
    how: Scheduling | None = None
    if cause is None:
        with contextlib.suppress(OSError):
            share = _cpu_share(ref.proc, _runnable(threads), budget)
            how = scheduling(ref.proc, kept.tid) if kept and share is not None else None
        cause = HeldCause.STARVED if share is not None and share < _STARVED else HeldCause.EXITING
    tracer = _tracer(threads, kept)
    found = tuple(reader.pid for reader in readers.found)
    return Diagnosis(
        cause=cause,
        pid=ref.pid,
        held_bytes=held_bytes,
        errno=errno,
        state=kept.state if kept else threads[0].state if threads else "",
        wchan=wchan,
        tid=kept.tid if kept else 0,
        tracer=tracer,
        readers=found,
        sharers=tuple(sharers),
        frozen=frozen,
        freeze=freeze if frozen else None,
        exited=exited,
        cpu_share=share,
        scheduling=how,
        names=_names([tracer, *found, *sharers]),
        reads={reader.pid: reader.what for reader in readers.found},
        complete=readers.complete,
    )


def _tracer(threads: Iterable[ThreadState], kept: ThreadState | None) -> int:
    """The process that traces the thread that keeps it, or another one; it may not be what holds it."""
    tid = kept.tracer if kept and kept.tracer else next((thread.tracer for thread in threads if thread.tracer), 0)
    if not tid:
        return 0
    # A tracer is a thread: kill(2) takes that too, but people and the contract want the process.
    with contextlib.suppress(OSError), open(f"/proc/{tid}/status", "rb", buffering=0) as lines:
        return next((int(line[5:]) for line in lines.read().split(b"\n") if line.startswith(b"Tgid:")), tid)
    return tid


def _is_frozen(freeze: Freeze | None, kept: ThreadState | None, wchan: str) -> bool:
    if wchan == REFRIGERATOR:
        return True
    # A task of v1 is frozen where it sleeps, if that allows it: then its cgroup tells, once it has frozen all of its tasks. What v2
    # freezes sleeps in state S, and SIGKILL ends it.
    return kept is not None and freeze is not None and freeze.complete and (freeze.version == 1 or kept.state == "S")


def _readers(ref: ProcessRef, budget: Budget) -> Readers:
    with contextlib.suppress(OSError):
        return readers_of(ref, budget)
    return Readers((), complete=False)


def _wchan(proc: int, kept: ThreadState | None) -> str:
    if kept is None or kept.state == "R":
        return ""
    if kept.wchan:
        return kept.wchan
    with contextlib.suppress(OSError):
        return wait_channel(proc, kept.tid)
    return ""


def _runnable(threads: Iterable[ThreadState]) -> list[int]:
    return [thread.tid for thread in threads if thread.state == "R"]


def _cpu_share(proc: int, tids: Sequence[int], budget: Budget) -> float | None:
    seconds = min(_SAMPLE, budget.left / 2)
    return least_cpu_share(proc, tids, seconds) if tids and seconds >= _LEAST_SAMPLE else None


def _names(pids: Iterable[int]) -> dict[int, str]:
    """Names of processes, proc_pid_comm(5), as far as they are there."""
    found: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            if pid:
                found[pid] = os.fsdecode(file.read(64).rstrip(b"\n"))
    return found
