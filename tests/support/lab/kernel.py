"""Raw system calls and waits: nothing of the product, so that a test of the product has something to be compared with."""

from __future__ import annotations

import ctypes
import os
import platform
import select
import time
import unittest
from collections.abc import Callable

from support import patience

PROCESS_MRELEASE = 448
"""The system call's number, the same on every architecture."""
PATIENCE = 60.0 * patience.FACTOR
"""Seconds after which the lab gives up waiting for something that takes milliseconds."""

libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(unittest.SkipTest):
    """This machine cannot make the victim: the message says why. pytest reports the test as skipped."""


def need_root(what: str) -> None:
    """Raises Unavailable where this process is not root."""
    if os.geteuid() != 0:
        raise Unavailable(f"{what} needs root")


def kernel_release() -> tuple[int, int]:
    """Returns major and minor of the running kernel."""
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


def syscall(number: int, *arguments: object) -> int:
    """Calls the kernel; returns what it returned, or minus the errno."""
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    return result if result >= 0 else -ctypes.get_errno()


def mrelease(pidfd: int, flags: int = 0) -> int:
    """Calls process_mrelease(2); returns 0 or the errno. May block for as long as the victim's mmap_lock is held."""
    return -syscall(PROCESS_MRELEASE, ctypes.c_int(pidfd), ctypes.c_uint(flags))


def need_mrelease() -> None:
    """Raises Unavailable where the kernel has no process_mrelease(2) or a filter forbids it."""
    import errno

    if kernel_release() < (5, 15):
        raise Unavailable(f"process_mrelease(2) came with Linux 5.15, this is {platform.release()}")
    answer = mrelease(-1)
    if answer != errno.EBADF:
        raise Unavailable(f"process_mrelease(2) answers {errno.errorcode.get(answer, answer)} here")


def wait_readable(fd: int, seconds: float = PATIENCE) -> bool:
    """Waits until `fd` is readable or closed by the other side; a pidfd is readable when its process has exited. False: out of time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def until(condition: Callable[[], bool], awaited: str, seconds: float = PATIENCE) -> None:
    """Waits for what the kernel announces by no event. Raises TimeoutError naming what was awaited."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for: {awaited}")
        time.sleep(0.001)
