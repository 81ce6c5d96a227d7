"""System calls that Python does not have. Each answers with the errno instead of raising: here an errno is a fact to report."""

from __future__ import annotations

import ctypes
import os
from typing import Final

from mrelease_agent.linux import forbidden

_libc = ctypes.CDLL(None, use_errno=True)

# One number on every architecture but alpha (asm-generic/unistd.h).
PROCESS_MRELEASE: Final = 448
_KCMP_VM: Final = 1  # linux/kcmp.h
# linux/openat2.h: RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_RESOLVE: Final = 0x01 | 0x04 | 0x08


class _OpenHow(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def process_mrelease(pidfd: int) -> int:
    """Release the memory of the dying process behind ``pidfd``; 0 or the errno, process_mrelease(2).

    Can block without bound on the victim's mmap_lock: belongs on a reaper thread. The GIL is released meanwhile.
    """
    return 0 if _libc.syscall(PROCESS_MRELEASE, pidfd, 0) == 0 else ctypes.get_errno()


def same_address_space(tid_a: int, tid_b: int) -> bool | None:
    """Whether two threads have one address space, kcmp(2) with KCMP_VM; None where that may not be known.

    Takes exec_update_lock of both, which a process can hold while it waits in execve(2): belongs on a reaper thread.
    """
    order = address_space_order(tid_a, tid_b)
    return None if order is None else order == 0


def address_space_order(tid_a: int, tid_b: int) -> int | None:
    """0 where two threads have one address space, -1 or 1 for the order of two, the same until the next boot; None as above."""
    if forbidden.KCMP is None or forbidden.is_deadly("kcmp"):
        return None
    return {0: 0, 1: -1, 2: 1}.get(_libc.syscall(forbidden.KCMP, tid_a, tid_b, _KCMP_VM, 0, 0))


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path below a directory fd, never through a link or into another mount, openat2(2); -1 where that fails for any reason.

    Not there before Linux 5.6 and behind some seccomp profiles.
    """
    raw = os.fsencode(path)
    if b"\0" in raw or forbidden.is_deadly("openat2"):
        return -1
    how = _OpenHow(flags, 0, _RESOLVE)
    return int(_libc.syscall(forbidden.OPENAT2, directory, raw, ctypes.byref(how), ctypes.sizeof(how)))
