"""Robust mutexes of a dying process: whether reaping it now would take from the kernel what it needs to wake those who wait for them.

Each thread has a list of the robust mutexes that it holds (set_robust_list(2)), in its own memory. As the thread exits, the kernel walks
the list, gives each mutex to a waiter, and forgets the list (futex_exit_release, kernel/futex/core.c). Of a process that was reaped
before that, the list reads as zeros, and the waiters, who may be alive and well, sleep for ever.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

from mrelease_agent.linux import forbidden, procfs

_libc = ctypes.CDLL(None, use_errno=True)
#: Of a process with more threads, those that were made first: the look costs some 5 us for each.
_MAX_THREADS: Final = 512
#: struct robust_list_head: next, offset of the futex, the mutex that is being taken or given up.
_Head = ctypes.c_uint64 * 3
_HEAD_SIZE: Final = ctypes.sizeof(_Head)
#: Bits of /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst.
_PRESENT_OR_SWAPPED: Final = 3 << 62
_FILE_OR_SHARED: Final = 1 << 61
_Span = ctypes.c_uint64 * 2  # struct iovec


def holds_robust_mutex(proc: int) -> bool:
    """Whether a thread of the process in ``proc`` holds a robust mutex that the kernel has not given away yet, get_robust_list(2).

    False where that may not be known, which needs PTRACE_MODE_READ. Waits for mmap_lock, as process_mrelease(2) does: belongs on a reaper
    thread. The address space is pinned for microseconds; should the process exit in them, it is this thread that frees the memory.

    A process chooses where its list is. In memory that a file system or userfaultfd(2) has to provide, reading it would wait for whoever
    does, and pin the memory meanwhile: so only private pages that are there are read.
    """
    if forbidden.GET_ROBUST_LIST is None or forbidden.is_deadly("get_robust_list") or forbidden.is_deadly("process_vm_readv"):
        return False
    try:
        return any(_held_by(proc, tid) for tid in procfs.thread_ids(proc)[:_MAX_THREADS])
    except (OSError, procfs.ProcessGoneError):
        return False


def _held_by(proc: int, tid: int) -> bool:
    address, size = ctypes.c_uint64(0), ctypes.c_size_t(0)
    if _libc.syscall(forbidden.GET_ROBUST_LIST, tid, ctypes.byref(address), ctypes.byref(size)) or not address.value:
        return False
    if not _is_private_and_there(proc, tid, address.value):
        return False
    head = _Head()
    here, there = _Span(ctypes.addressof(head), _HEAD_SIZE), _Span(address.value, _HEAD_SIZE)
    one, zero = ctypes.c_ulong(1), ctypes.c_ulong(0)
    if _libc.process_vm_readv(tid, here, one, there, one, zero) != _HEAD_SIZE:
        return False
    following, _offset, pending = head
    return following not in (0, address.value) or pending != 0


def _is_private_and_there(proc: int, tid: int, address: int) -> bool:
    """Whether reading the list's head at ``address`` can wait for nobody: every page of it is private memory, present or swapped out."""
    first, last = address // procfs.PAGE_SIZE, (address + _HEAD_SIZE - 1) // procfs.PAGE_SIZE
    fd = os.open(f"task/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        entries = os.pread(fd, 8 * (last - first + 1), 8 * first)
    finally:
        os.close(fd)
    found = [int.from_bytes(entries[at : at + 8], sys.byteorder) for at in range(0, len(entries), 8)]
    return len(found) == last - first + 1 and all(entry & _PRESENT_OR_SWAPPED and not entry & _FILE_OR_SHARED for entry in found)
