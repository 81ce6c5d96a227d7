"""Who shares an address space: processes made with vfork(2) or clone(2) with CLONE_VM but without CLONE_THREAD."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.children import children
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.syscalls import address_space_order, same_address_space

#: Of so many processes each is asked for its children; of more, all others are asked for their parents.
_FEW: Final = 64


def alike_relatives(refs: Sequence[ProcessRef]) -> dict[int, list[int]]:
    """Find who may share the address space of each of ``refs``: its parent and its children, where theirs has the same size.

    By pid; who has no such relatives is left out. A vforked child and its parent, and nearly everything else that shares, are relatives.
    Makes no call that can block. Some 20 us for each process; of many at once some 15 us for each process of the node instead.

    Raises OSError for limits of the agent's process.
    """
    sizes = {ref.pid: ref.stat.size // procfs.PAGE_SIZE for ref in refs}
    found: dict[int, list[int]] = {}
    for pair in set(_parents_and_children(refs)):
        for pid in pair:
            if pid not in sizes:
                sizes[pid] = _size(pid)
        if sizes[pair[0]] and sizes[pair[0]] == sizes[pair[1]]:
            for one, other in (pair, pair[::-1]):
                found.setdefault(one, []).append(other)
    return {ref.pid: found[ref.pid] for ref in refs if ref.pid in found}


def _parents_and_children(refs: Sequence[ProcessRef]) -> Iterator[tuple[int, int]]:
    """Pairs of which at least one is of ``refs``."""
    for ref in refs:
        if ref.stat.ppid > 0:
            yield ref.stat.ppid, ref.pid
    if len(refs) <= _FEW:
        for ref in refs:
            with contextlib.suppress(PermissionError):
                yield from ((ref.pid, child) for child in children(ref.proc, ref.stat))
        return
    known = {ref.pid for ref in refs}
    for pid in procfs.pids():
        if pid not in known:
            parent = procfs.parent(pid)
            if parent in known:
                yield parent, pid


def sharers(pid: int, proc: int, candidates: Iterable[int] | None = None) -> list[int]:
    """Find the processes with the address space of ``pid`` among ``candidates``, or among all, by kcmp(2).

    Whom the agent may not compare (no CAP_SYS_PTRACE, a seccomp filter) is counted among candidates where it has the very same memory: else
    the memory of a process that has exited would be called free while another one has it. Can block: belongs on a reaper thread.
    """
    found = procfs.address_space(proc)
    if found is None:
        return []
    tid = found[0]
    mine = b"" if candidates is None else _statm(pid)

    def shares(other: int) -> bool:
        same = same_address_space(tid, other)
        return same or (same is None and mine != b"" and mine == _statm(other))

    others = [other for other in (procfs.pids() if candidates is None else candidates) if other != pid and shares(other)]
    # A thread past exit_mm() has no address space, as zombies and kernel threads have none: then everybody compares equal.
    return others if procfs.address_space(proc) is not None else []


def shared_among(pids: Collection[int], seconds: float) -> dict[int, list[int]]:
    """Find the other processes of the node with the address space of each of ``pids``; who has one alone is left out.

    Only address spaces of equal size are compared, and those by their order, so that n of them take n log n calls of kcmp(2): some 2 us
    each, and some 6 us for each process of the node. After ``seconds`` what was not compared yet is left out, as is what the agent's user
    may not compare and who changes meanwhile. Can block: belongs on a thread of its own.
    """
    until = time.monotonic() + seconds
    alike: dict[bytes, list[int]] = {}
    for pid in procfs.pids():
        alike.setdefault(_sizes(pid), []).append(pid)
    alike.pop(b"", None)
    wanted = frozenset(pids)
    found: dict[int, list[int]] = {}
    for candidates in alike.values():
        if len(candidates) < 2 or wanted.isdisjoint(candidates):
            continue
        groups: list[list[int]] = []
        for pid in candidates:
            if time.monotonic() > until:
                break
            _add(groups, pid)
        for group in groups:
            # Who has exited meanwhile has no address space, and compares equal to everybody who has none.
            living = [pid for pid in group if _size(pid)] if len(group) > 1 else []
            found.update((pid, [other for other in living if other != pid]) for pid in living if pid in wanted and len(living) > 1)
    return found


def _add(groups: list[list[int]], pid: int) -> None:
    """Put a process to those with its address space; the groups are in the order of kcmp(2)."""
    low, high = 0, len(groups)
    while low < high:
        middle = (low + high) // 2
        order = address_space_order(groups[middle][0], pid)
        if order is None:
            if address_space_order(pid, pid) is None:
                return
            del groups[middle][0]
            if not groups[middle]:
                del groups[middle]
            low, high = 0, len(groups)
        elif order == 0:
            groups[middle].append(pid)
            return
        elif order < 0:
            low = middle + 1
        else:
            high = middle
    groups.insert(low, [pid])


def still_held(pid: int, at_least: int) -> bool:
    """Whether a former sharer still has ``at_least`` bytes of private memory: it has neither exited nor executed a program.

    True also where the agent's process is at a limit and cannot look.
    """
    try:
        proc = procfs.open_process(pid)
        try:
            found = procfs.address_space(proc)
            return found is not None and found[1].reclaimable >= at_least
        finally:
            os.close(proc)
    except procfs.ProcessGoneError:
        return False
    except OSError:
        return True


def _size(pid: int) -> int:
    """Pages of the address space, proc_pid_statm(5); 0 where there is none."""
    return int(_statm(pid).partition(b" ")[0] or 0)


def _sizes(pid: int) -> bytes:
    """Pages of the address space, of its code and of its data; empty where there is none."""
    fields = _statm(pid).split()
    return b" ".join((fields[0], fields[3], fields[5])) if len(fields) == 7 and fields[0] != b"0" else b""


def _statm(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 256)
        finally:
            os.close(fd)
    return b""
