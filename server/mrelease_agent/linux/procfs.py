"""Readers of /proc. Only files that cannot block on a victim: ``stat``, ``status``, ``cgroup``, ``comm``, ``wchan``.

``smaps``, ``maps``, ``cmdline`` and ``environ`` take the address space's lock or pin it, so reading them can hang the agent or keep
the very memory that it is to free (DESIGN: "RSS 0 is no proof").
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

PAGE_SIZE: Final = os.sysconf("SC_PAGESIZE")

# linux/sched.h
_PF_EXITING: Final = 0x00000004
_PF_SIGNALED: Final = 0x00000400
_PF_KTHREAD: Final = 0x00200000
_SIGKILL_BIT: Final = 1 << 8
#: Sizes in ``status`` as every kernel since 4.5 writes them (fs/proc/task_mmu.c, task_mem): to find them at once takes half of the time.
_SIZES: Final = re.compile(
    rb"\nRssAnon:\s+(\d+) kB\nRssFile:\s+(\d+) kB\nRssShmem:\s+(\d+) kB\n(?:.*\n)*?"
    rb"VmPTE:\s+(\d+) kB\n(?:.*\n)*?VmSwap:\s+(\d+) kB\n(?:HugetlbPages:\s+(\d+) kB\n)?"
)
#: The same in the order of Memory.
_SIZES_NAMES: Final = (b"\nRssAnon:", b"\nRssFile:", b"\nRssShmem:", b"\nVmSwap:", b"\nHugetlbPages:", b"\nVmPTE:")


class ProcessGoneError(Exception):
    """The process does not exist any more, or not yet another time."""


class Stat(NamedTuple):
    """What proc_pid_stat(5) says of a process. ``start_time`` in clock ticks since boot; ``size`` of its address space in bytes."""

    pid: int
    comm: str
    state: str
    ppid: int
    flags: int
    threads: int
    start_time: int
    size: int = 0

    @property
    def kernel_thread(self) -> bool:
        """PF_KTHREAD."""
        return bool(self.flags & _PF_KTHREAD)

    @property
    def exiting(self) -> bool:
        """PF_EXITING: the thread, for a process its first one, has begun to exit."""
        return bool(self.flags & _PF_EXITING)


class Memory(NamedTuple):
    """Memory of one address space in bytes, the ``Rss*``, ``VmSwap``, ``HugetlbPages`` and ``VmPTE`` of proc_pid_status(5)."""

    anon: int
    file: int
    shmem: int
    swap: int
    hugetlb: int
    page_table: int

    @property
    def reclaimable(self) -> int:
        """What reaping gives back: private anonymous memory and its swap."""
        return self.anon + self.swap


@dataclass(frozen=True, slots=True)
class Status:
    """What proc_pid_status(5) says of a thread. ``memory`` is None where the thread has no address space (any more)."""

    tgid: int
    uid: int
    memory: Memory | None
    core_dumping: bool
    sigkill_pending: bool


def open_process(pid: int) -> int:
    """Open ``/proc/PID`` as a directory fd: bound to this very process, it never shows a later one with the same pid.

    Raises ProcessGoneError.
    """
    try:
        return os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError from None


def read(proc: int, name: str) -> bytes:
    """Read one file below a directory fd of open_process(). Raises ProcessGoneError; PermissionError."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            return os.read(fd, 65536)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError from None


def stat(proc: int, prefix: str = "") -> Stat:
    """Read ``stat`` of a process, or of one thread with ``prefix="task/TID/"``. Raises ProcessGoneError."""
    return parse_stat(read(proc, prefix + "stat"))


def parse_stat(raw: bytes) -> Stat:
    """What a ``stat`` says, proc_pid_stat(5), whatever the process calls itself."""
    # The name may contain blanks and parentheses: it ends at the last one.
    head, _, tail = raw.rpartition(b")")
    pid, _, comm = head.partition(b" (")
    fields = tail.split(None, 21)
    return Stat(
        pid=int(pid),
        comm=comm.decode("utf-8", "replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        threads=int(fields[17]),
        start_time=int(fields[19]),
        size=int(fields[20]),
    )


def status(proc: int, prefix: str = "") -> Status:
    """Read ``status`` of a process, or of one thread with ``prefix="task/TID/"``. Raises ProcessGoneError."""
    return parse_status(read(proc, prefix + "status"))


def parse_status(raw: bytes) -> Status:
    """What a ``status`` says, proc_pid_status(5), whatever the process calls itself."""
    return Status(
        tgid=int(_field(raw, b"\nTgid:")),
        uid=int(_field(raw, b"\nUid:").split()[1]),
        memory=_memory(raw),
        core_dumping=_field(raw, b"\nCoreDumping:").strip() == b"1",
        sigkill_pending=bool((int(_field(raw, b"\nSigPnd:"), 16) | int(_field(raw, b"\nShdPnd:"), 16)) & _SIGKILL_BIT),
    )


def memory(proc: int) -> Memory | None:
    """Memory in ``status`` of a process; None where its leader has no address space (any more). Raises ProcessGoneError."""
    return _memory(read(proc, "status"))


def _memory(raw: bytes) -> Memory | None:
    at = raw.find(b"\nRssAnon:")
    if at < 0:
        return None
    found = _SIZES.match(raw, at)
    if found is None:  # no kernel that is known: each line by itself
        return Memory(*[int(_field(raw, name).split()[0]) * 1024 for name in _SIZES_NAMES])
    anon, file, shmem, page_table, swap, hugetlb = found.groups(b"0")
    return Memory(int(anon) * 1024, int(file) * 1024, int(shmem) * 1024, int(swap) * 1024, int(hugetlb) * 1024, int(page_table) * 1024)


def _field(raw: bytes, name: bytes) -> bytes:
    """A line of ``status``; "0" where this kernel does not show it. No process can forge one: line breaks in its name are escaped."""
    at = raw.find(name)
    return raw[at + len(name) : raw.index(b"\n", at + 1)] if at >= 0 else b"0"


def start_time(pid: int) -> int:
    """Start time of whatever has ``pid`` now, in clock ticks since boot; 0 where nothing has."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def parent(pid: int) -> int:
    """Pid of the parent of whatever has ``pid`` now; 0 where nothing has, and where it is not of this PID namespace."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read().rpartition(b")")[2].split(None, 3)[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def thread_ids(proc: int) -> list[int]:
    """List the threads of a process, empty when it is gone."""
    try:
        fd = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        return []
    try:
        return [int(name) for name in os.listdir(fd)]
    except OSError:
        return []
    finally:
        os.close(fd)


def thread_statuses(proc: int) -> Iterator[tuple[int, Status]]:
    """Read ``status`` of each thread that still exists, with its id."""
    for tid in thread_ids(proc):
        with contextlib.suppress(ProcessGoneError):
            yield tid, status(proc, f"task/{tid}/")


def living_threads(proc: int) -> list[int]:
    """List the threads of a process that have not begun to exit."""
    found: list[int] = []
    for tid in thread_ids(proc):
        with contextlib.suppress(ProcessGoneError):
            if not stat(proc, f"task/{tid}/").exiting:
                found.append(tid)
    return found


def address_space(proc: int) -> tuple[int, Memory] | None:
    """Find a thread that still has the address space, with the memory in it; None where none has.

    A leader that has exited shows no memory while its threads live on, so every thread is asked until one answers. None is no proof
    that memory is back: from exit_mm() on no thread shows it, long before it is free.
    """
    try:
        raw = read(proc, "status")
    except ProcessGoneError:
        return None
    found = _memory(raw)
    if found is not None:
        return int(_field(raw, b"\nTgid:")), found
    return next(((tid, each.memory) for tid, each in thread_statuses(proc) if each.memory is not None), None)


def core_dumping(proc: int) -> bool:
    """Whether the process dumps core: CoreDumping of any thread that has the address space (Linux 4.15)."""
    return any(found.core_dumping for _, found in thread_statuses(proc))


def dying(proc: int) -> bool:
    """Whether death has begun: SIGKILL pending, killed by a signal, or every thread exiting. For where the kernel's own word is missing."""
    exiting = True
    for tid, found in thread_statuses(proc):
        if found.sigkill_pending:
            return True
        with contextlib.suppress(ProcessGoneError):
            flags = stat(proc, f"task/{tid}/").flags
            if flags & _PF_SIGNALED:
                return True
            exiting = exiting and bool(flags & _PF_EXITING)
    return exiting


def waiting(proc: int) -> tuple[str, str]:
    """State letter and wait channel of the thread that most likely keeps the process: the first in D, else the first.

    Both empty where the process is gone; the wait channel is empty where it may not be known (kernel.kptr_restrict, no CAP_SYS_PTRACE).
    """
    chosen: tuple[str, str] = ("", "")
    for tid in thread_ids(proc)[:1024]:
        with contextlib.suppress(ProcessGoneError, OSError):
            state = stat(proc, f"task/{tid}/").state
            if chosen[0] and state != "D":
                continue
            channel = read(proc, f"task/{tid}/wchan").decode("ascii", "replace")
            chosen = (state, "" if channel == "0" else channel)
            if state == "D":
                break
    return chosen


def ancestors() -> list[int]:
    """List the pids of this process's ancestors, its parent first, as far as this PID namespace shows them."""
    found: list[int] = []
    pid = os.getppid()
    with contextlib.suppress(ProcessGoneError):
        while pid > 0 and pid not in found:
            found.append(pid)
            proc = open_process(pid)
            try:
                pid = stat(proc).ppid
            finally:
                os.close(proc)
    return found


def pids() -> list[int]:
    """List the pids of this PID namespace, in ascending order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
