"""System calls that Python does not have. Each answers with the errno instead of raising: here an errno is a fact to report."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)

# process_mrelease has one number on every architecture but alpha (asm-generic/unistd.h); kcmp is older than that rule.
_PROCESS_MRELEASE: Final = 448
_KCMP: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}.get(platform.machine())
_KCMP_VM: Final = 1  # linux/kcmp.h


def process_mrelease(pidfd: int) -> int:
    """Release the memory of the dying process behind ``pidfd``; 0 or the errno, process_mrelease(2).

    Can block without bound on the victim's mmap_lock: belongs on a reaper thread. The GIL is released meanwhile.
    """
    return 0 if _libc.syscall(_PROCESS_MRELEASE, pidfd, 0) == 0 else ctypes.get_errno()


def same_address_space(tid_a: int, tid_b: int) -> bool | None:
    """Whether two threads have one address space, kcmp(2) with KCMP_VM; None where that may not be known.

    Takes exec_update_lock of both, which a process can hold while it waits in execve(2): belongs on a reaper thread.
    """
    if _KCMP is None:
        return None
    order = _libc.syscall(_KCMP, tid_a, tid_b, _KCMP_VM, 0, 0)
    return None if order < 0 else order == 0
