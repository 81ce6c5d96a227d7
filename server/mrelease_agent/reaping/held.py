"""What holds the memory of a process that was killed, and what to do about it: one sentence each, for who reads the result at night."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from errno import EAGAIN
from typing import Final

from mrelease_agent.linux.freezing import Freeze
from mrelease_agent.linux.threads import Scheduling
from mrelease_agent.reaping.outcome import HeldCause
from mrelease_agent.reaping.remedies import DUMP, DUMP_STUCK, REMEDIES, SEARCH, THAW, UNKNOWN_WAIT, WEIGHT, awaited

#: So many processes are named.
_NAMED: Final = 8


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out. ``state``, ``wchan`` and ``tid`` are of the thread that keeps the process; pids are 0 or empty where unknown."""

    cause: HeldCause
    pid: int
    held_bytes: int
    errno: int
    #: State letter of proc_pid_stat(5) and kernel function of proc_pid_wchan(5); empty where the process is gone.
    state: str = ""
    wchan: str = ""
    tid: int = 0
    tracer: int = 0
    #: Who reads its memory, or holds open the files of its /proc directory to do so.
    readers: tuple[int, ...] = ()
    #: Who has the same address space.
    sharers: tuple[int, ...] = ()
    #: Whether its cgroup freezes it; ``freeze`` says which, where that may be seen.
    frozen: bool = False
    freeze: Freeze | None = None
    exited: bool = False
    #: Of a runnable process: the share of a CPU that it gets, and how it is scheduled.
    cpu_share: float | None = None
    scheduling: Scheduling | None = None
    #: Names of the tracer, readers and sharers, and what each reader reads it by.
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    reads: Mapping[int, str] = field(default_factory=dict[int, str])
    #: Whether all that there is was looked at; else time or permission did not suffice.
    complete: bool = True


def words(diagnosis: Diagnosis) -> tuple[str, str]:
    """Cause and remedy, one sentence each; both empty where nothing holds the memory."""
    if diagnosis.cause is HeldCause.UNSPECIFIED:
        return "", ""
    fields = {
        "awaited": _awaited(diagnosis),
        "tracer": f"end the tracer: `kill -9 {diagnosis.tracer}`" if diagnosis.tracer else "end the tracer",
        "thaw": f"`{diagnosis.freeze.command}`" if diagnosis.freeze and diagnosis.freeze.files else THAW,
        "cpu": _cpu(diagnosis),
        "sharers": _pids(diagnosis.sharers),
        "readers": f"end the readers: `kill {_pids(diagnosis.readers)}`" if diagnosis.readers else SEARCH,
        "dump": f"{DUMP_STUCK}: {_awaited(diagnosis)}" if diagnosis.state == "D" else DUMP,
    }
    return _printable(_CAUSES[diagnosis.cause](diagnosis)), _printable(REMEDIES[diagnosis.cause].format_map(fields))


def _uninterruptible(found: Diagnosis) -> str:
    return f"{_who(found)} is in uninterruptible sleep (state D){_waiting(found)}{_traced(found)}"


def _held_by_tracer(found: Diagnosis) -> str:
    tracer = _named(found, [found.tracer]) if found.tracer else "a process of another PID namespace"
    return f"{tracer} traces it and holds it at its exit"


def _exiting(found: Diagnosis) -> str:
    if not found.state or found.state in "ZXx":
        return "it ended only just, after the deadline"
    return f"it is still exiting (state {found.state}){_waiting(found)}"


def _who(found: Diagnosis) -> str:
    # The main thread has the number that the result has already: so many processes may have one sentence in common.
    return "it" if found.tid in (0, found.pid) else f"its thread {found.tid}"


def _waiting(found: Diagnosis) -> str:
    if not found.wchan:
        return ", waiting for what the agent may not see" if found.state == "D" else ""
    wait = awaited(found.wchan) if found.state == "D" else None
    return f", waiting in {found.wchan}" + (f" for {wait.what}" if wait else "")


def _in_state_d(found: Diagnosis) -> str:
    return f"; {_who(found)} is in state D{_waiting(found)}" if found.state == "D" else ""


def _traced(found: Diagnosis) -> str:
    return f"; {_named(found, [found.tracer])} traces it" if found.tracer else ""


def _holder(found: Diagnosis) -> str:
    parts = ""
    if found.state == "D":
        who = "its main thread" if found.tid == found.pid else f"its thread {found.tid}"
        parts += f", which {who} (state D{_waiting(found)}) most likely holds"
    if found.readers:
        parts += f"; its memory is read by {_reading(found)}"
    return parts


def _pinned(found: Diagnosis) -> str:
    subject = "it has exited, but its memory is still charged to its cgroup" if found.exited else "no thread of it has the memory any more"
    if found.readers:
        return f"{subject}: most likely pinned by {_reading(found)}"
    if found.errno == EAGAIN:
        return "process_mrelease(2) cannot take all of it: an mmu notifier (KVM, RDMA, GPU) would block"
    seen = "" if found.complete else " (not every process could be looked at)"
    return f"{subject}: something pins its address space or its pages{seen}"


def _reading(found: Diagnosis) -> str:
    return _listed([f"{_named(found, [pid])}, {_how(found.reads.get(pid, ''))}" for pid in found.readers], "; ")


def _how(read: str) -> str:
    return f"which has {read} open" if read.startswith("/") else f"which waits in {read}"


def _share(found: Diagnosis) -> str:
    # In steps: so many processes may have one sentence in common.
    share = found.cpu_share or 0.0
    return "nearly nothing" if share < 0.02 else "less than a tenth" if share < 0.1 else "less than half"


def _scheduled(found: Diagnosis) -> str:
    how = found.scheduling
    return f" ({how.policy}, nice {how.nice}, CPUs {how.cpus})" if how else ""


def _cpu(found: Diagnosis) -> str:
    parts: list[str] = []
    if found.scheduling and found.scheduling.policy == "SCHED_IDLE":
        parts.append(f"`chrt --all-tasks --other --pid 0 {found.pid}`")
    if found.scheduling and found.scheduling.cpus.isdecimal():
        parts.append(f"`taskset --all-tasks --cpu-list --pid CPUS {found.pid}`")
    return ", ".join([*parts, WEIGHT])


def _awaited(found: Diagnosis) -> str:
    wait = awaited(found.wchan) if found.state == "D" else None
    if wait is None and found.cause is HeldCause.MMAP_LOCK and found.state != "D":
        if found.readers:
            return f"end the readers: `kill {_pids(found.readers)}`"
        return "find who holds the lock, a thread in state D: `ps -eLo pid,tid,stat,wchan:32,comm`"
    return wait.remedy if wait else UNKNOWN_WAIT


def _named(found: Diagnosis, pids: Sequence[int]) -> str:
    return _listed([f"{pid} ({found.names[pid]})" if pid in found.names else str(pid) for pid in pids])


def _listed(words: Sequence[str], separator: str = ", ") -> str:
    return separator.join(words[:_NAMED]) + (f"{separator}..." if len(words) > _NAMED else "")


def _pids(pids: Sequence[int]) -> str:
    return " ".join(map(str, pids[:_NAMED])) + (" ..." if len(pids) > _NAMED else "")


def _printable(text: str) -> str:
    """Names of processes, files and cgroups are chosen by others."""
    return "".join(character if character.isprintable() else "?" for character in text)


#: How each cause is said.
_CAUSES: Final[Mapping[HeldCause, Callable[[Diagnosis], str]]] = {
    HeldCause.UNINTERRUPTIBLE: _uninterruptible,
    HeldCause.TRACED: _held_by_tracer,
    HeldCause.FROZEN: lambda found: f"its cgroup is frozen{_traced(found)}",
    HeldCause.STARVED: lambda found: f"it is runnable and gets {_share(found)} of a CPU{_scheduled(found)}",
    HeldCause.SHARED_MM: lambda found: f"its address space belongs also to living processes: {_named(found, found.sharers)}",
    HeldCause.PINNED: _pinned,
    HeldCause.CORE_DUMP: lambda found: f"it dumps core, and the kernel does not reap before the dump has ended{_in_state_d(found)}",
    HeldCause.MMAP_LOCK: lambda found: f"process_mrelease(2) waits in the kernel for the lock of its address space{_holder(found)}",
    HeldCause.NO_REAPER: lambda found: (
        f"every reaper thread was busy until the deadline, so process_mrelease(2) was not called{_in_state_d(found)}"
    ),
    HeldCause.UNSUPPORTED: lambda found: (
        f"this node cannot call process_mrelease(2), so its memory waits for its exit{_in_state_d(found)}{_traced(found)}"
    ),
    HeldCause.EXITING: _exiting,
}
