"""Which processes read the memory of another one: what they hold open of its /proc directory, and where they wait.

An open file of ``/proc/PID/mem`` or ``smaps`` pins no memory; a read of it that does not return does. It shows as a link in
``/proc/READER/fd``, and after the death of PID as the same link still, also from another mount of /proc or another PID namespace, which
has a number of its own for PID. Only links and ``fdinfo`` are read: a link that looks like one of these may lead into a FUSE file
system of the reader's, which would hold whoever follows it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.budget import Budget
from mrelease_agent.linux.process import ProcessRef

#: Files whose reading takes the address space: fs/proc/task_mmu.c, fs/proc/base.c.
_NAMES: Final = frozenset({
    "mem", "maps", "smaps", "smaps_rollup", "numa_maps", "pagemap", "clear_refs", "environ", "cmdline", "map_files",
})  # fmt: skip
_LINK: Final = re.compile(r"/([1-9]\d*)((?:/task/[1-9]\d*)?/[a-z_]+)(?: \(deleted\))?\Z")
#: Numbers of the system calls that read or write another process's memory.
_COPIES: Final[dict[int, str]] = {
    "x86_64": {310: "process_vm_readv(2)", 311: "process_vm_writev(2)"},
    "aarch64": {270: "process_vm_readv(2)", 271: "process_vm_writev(2)"},
    "riscv64": {270: "process_vm_readv(2)", 271: "process_vm_writev(2)"},
}.get(os.uname().machine, {})
#: The budget is asked for after so many links.
_LINKS_AT_A_TIME: Final = 64


@dataclass(frozen=True, slots=True)
class Reader:
    """A process that reads another one's memory. ``what``: the file that it holds open, or the system call in which it waits."""

    pid: int
    what: str


@dataclass(frozen=True, slots=True)
class Readers:
    """Those that were found; ``complete``: nobody was left out for want of time or permission."""

    found: tuple[Reader, ...]
    complete: bool


def readers_of(ref: ProcessRef, budget: Budget) -> Readers:
    """Find who reads the memory of a process, also of one that has exited, as far as budget and permission reach.

    Costs some 0.2 ms for each process of the node and 2 us for each of its open files. Raises OSError for limits of the agent's process.
    """
    victim = _Victim(ref)
    found, complete = _search(victim, lambda proc: _held(proc, victim, budget), budget)
    if not found:
        found, all_asked = _search(victim, lambda proc: _copying(proc, victim, budget), budget)
        complete = complete and all_asked
    return Readers(tuple(found), complete)


def _search(victim: _Victim, ask: Callable[[int], str], budget: Budget) -> tuple[list[Reader], bool]:
    found: list[Reader] = []
    complete = True
    for pid in procfs.pids():
        if budget.spent:
            return found, False
        if pid == victim.pid:
            continue
        with contextlib.suppress(procfs.ProcessGoneError):
            proc = procfs.open_process(pid)
            try:
                if what := ask(proc):
                    found.append(Reader(pid, what))
            except PermissionError:
                complete = False
            finally:
                os.close(proc)
    return found, complete and not budget.spent


class _Victim:
    """By what a process is known in links of others."""

    def __init__(self, ref: ProcessRef) -> None:
        self.proc = ref.proc
        self.device = os.fstat(ref.proc).st_dev
        self.pid = ref.pid
        self.numbers = frozenset({ref.pid, *procfs.thread_ids(ref.proc)})
        self.namespace = _namespace(ref.proc)
        self.inside = _number_inside(ref.proc)
        self.ours = _link("/proc/self/ns/pid")

    def may_have(self, number: int) -> bool:
        """Whether the process has this number in any PID namespace known here."""
        return number in self.numbers or number in self.inside

    def numbers_in(self, namespace: str) -> Collection[int]:
        """Numbers that the process and its threads have in a PID namespace; none where that is not known."""
        if not namespace:
            return ()
        return self.numbers if namespace == self.ours else self.inside if namespace == self.namespace else ()

    def has_inode(self, number: int, name: str, inode: int) -> bool:
        """Whether the file that ``number`` has in this /proc has this inode: as long as a file is open, its inode is that of its name.

        Opens nothing. True where that may not be known.
        """
        if number == self.pid:
            with contextlib.suppress(OSError):
                return inode in (0, os.stat(name.lstrip("/"), dir_fd=self.proc).st_ino)
        with contextlib.suppress(OSError):
            now = Path(f"/proc/{number}{name}").stat().st_ino
            # The process is reaped, and who has its number now is another one; else it is one of its threads.
            return inode != now if number == self.pid else inode in (0, now)
        return True


def _held(proc: int, victim: _Victim, budget: Budget) -> str:
    """The file of the victim's that a process holds open; empty where it holds none."""
    folders = ["fd"]
    for folder in folders:
        empty = True
        for fd, link in _links(proc, folder, budget):
            empty = False
            matched = _LINK.search(link)
            if matched is None or matched[2].rpartition("/")[2] not in _NAMES:
                continue
            number = int(matched[1])
            if victim.may_have(number) and _is_of(proc, f"{folder}info/{fd}", victim, number, matched[2]):
                return link.removesuffix(" (deleted)")
        if empty and folder == "fd":
            # A leader that has exited has given its files up, its threads have not.
            folders += [f"task/{tid}/fd" for tid in procfs.thread_ids(proc)[1:2]]
    return ""


def _links(proc: int, folder: str, budget: Budget) -> Iterator[tuple[str, str]]:
    """Open files of a process by number, and where they lead. Raises ProcessGoneError; PermissionError."""
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        raise procfs.ProcessGoneError from None
    try:
        with os.scandir(directory) as entries:
            for index, entry in enumerate(entries, 1):
                if index % _LINKS_AT_A_TIME == 0 and budget.spent:
                    return
                try:
                    link = os.readlink(entry.name, dir_fd=directory)
                except (FileNotFoundError, ProcessLookupError):  # closed meanwhile
                    continue
                yield entry.name, link
    except (FileNotFoundError, ProcessLookupError):
        raise procfs.ProcessGoneError from None
    finally:
        os.close(directory)


def _is_of(proc: int, fdinfo: str, victim: _Victim, number: int, name: str) -> bool:
    """Whether an open file called ``.../NUMBER/name`` is of a /proc, and of the victim's there."""
    try:
        lines = procfs.read(proc, fdinfo).split(b"\n")
    except procfs.ProcessGoneError:  # closed meanwhile
        return False
    info = dict(line.split(b":\t", 1) for line in lines if b":\t" in line)
    mount = _mounts(proc).get(info.get(b"mnt_id", b"").strip())
    if mount is None or mount[1] != "proc":
        return False
    if mount[0] != victim.device:
        return number in victim.numbers_in(_namespace(proc))
    # The number may have been another process's when the file was opened, or may be now.
    if number not in victim.numbers:
        return False
    return victim.has_inode(number, name, int(info.get(b"ino", b"0")))


def _mounts(proc: int) -> dict[bytes, tuple[int, str]]:
    """Device number and type of each mount that a process sees, by id: proc_pid_mountinfo(5)."""
    found: dict[bytes, tuple[int, str]] = {}
    try:
        file = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        raise procfs.ProcessGoneError from None
    with open(file, "rb") as lines, contextlib.suppress(OSError):
        for line in lines:
            before, _, after = line.partition(b" - ")
            number, _, device = before.split(b" ")[:3]
            major, _, minor = device.partition(b":")
            found[number] = os.makedev(int(major), int(minor)), after.split(b" ", 1)[0].decode("ascii", "replace")
    return found


def _copying(proc: int, victim: _Victim, budget: Budget) -> str:
    """Whether a process waits in process_vm_readv(2) or process_vm_writev(2) for a page of its own that userfaultfd(2) does not give it.

    ``syscall`` is read of threads that sleep in such a page fault alone: elsewhere its reader may have to wait for an execve(2).
    """
    for tid in procfs.thread_ids(proc):
        if budget.spent:
            break
        with contextlib.suppress(procfs.ProcessGoneError, PermissionError):
            if procfs.read(proc, f"task/{tid}/wchan") != b"handle_userfault":
                continue
            call = procfs.read(proc, f"task/{tid}/syscall").split()
            if len(call) > 1 and int(call[0]) in _COPIES and int(call[1], 16) in victim.numbers_in(_namespace(proc)):
                return _COPIES[int(call[0])]
    return ""


def _number_inside(proc: int) -> frozenset[int]:
    """Number of a process in its own PID namespace, NSpid of proc_pid_status(5); empty where it is reaped."""
    with contextlib.suppress(procfs.ProcessGoneError):
        for line in procfs.read(proc, "status").split(b"\n"):
            if line.startswith(b"NSpid:"):
                return frozenset({int(line.split()[-1])})
    return frozenset()


def _namespace(proc: int) -> str:
    return _link("ns/pid", proc)


def _link(path: str, folder: int | None = None) -> str:
    try:
        return os.readlink(path, dir_fd=folder)
    except OSError:
        return ""
