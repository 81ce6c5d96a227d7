"""System calls that a seccomp filter forbids: found out in child processes at the start, because a filter may also answer with SIGSYS.

An ordinary server makes none of these. Who makes one asks check() before: else the first diagnosis or boost would end the agent.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE: Final = platform.machine()
#: Numbers of what neither Python nor the C library has, asm/unistd.h.
KCMP: Final = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}.get(_MACHINE)
GET_ROBUST_LIST: Final = {"x86_64": 274, "aarch64": 100, "riscv64": 100, "ppc64le": 299, "s390x": 305}.get(_MACHINE)
OPENAT2: Final = 437  # the same on every architecture
_KCMP_VM: Final = 1  # linux/kcmp.h
#: No call is made: what the child answers where it was killed.
DEADLY: Final = -1

_found: dict[str, int] = {}


def find() -> Mapping[str, int]:
    """Ask the kernel for each call, by its name: 0, the errno, or DEADLY where the caller is killed. Kept for check() and why().

    Forks, once more for each call that is deadly: call it before the process has other threads.
    """
    calls = dict(_CALLS)
    _found.clear()
    while calls:
        answers = _ask(calls)
        if len(answers) < len(calls):
            answers.append(DEADLY)
        for answer in answers:
            name = next(iter(calls))
            _found[name] = answer
            del calls[name]
    return dict(_found)


def is_deadly(name: str) -> bool:
    """Whether making this call would end the process."""
    return _found.get(name) == DEADLY


def check(name: str) -> None:
    """Raise PermissionError where making this call would end the process."""
    if is_deadly(name):
        raise PermissionError(errno.EPERM, f"a seccomp filter kills the caller of {name}(2)")


def why(name: str) -> str:
    """How a filter (or an old kernel) answers a call that does nothing; empty where it does not."""
    answer = _found.get(name, 0)
    if answer == DEADLY:
        return f"a seccomp filter kills the caller of {name}(2) (SIGSYS)"
    return f"{name}(2) answers {errno.errorcode.get(answer, answer)}, by a seccomp filter or an old kernel" if answer else ""


def _ask(calls: Mapping[str, Callable[[], None]]) -> list[int]:
    """Answers of a child, in order, as far as it got."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            signal.signal(signal.SIGSYS, signal.SIG_DFL)
            for call in calls.values():
                os.write(writer, bytes([_errno_of(call)]))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        found = list(answers.read())
    os.waitpid(pid, 0)
    return found


def _errno_of(call: Callable[[], None]) -> int:
    try:
        call()
    except OSError as error:
        return (error.errno or errno.EIO) & 0xFF
    return 0


def _raw(number: int | None, *arguments: object) -> None:
    """Make a call by its number; one that this architecture does not have here is nobody's to forbid."""
    if number is not None and _libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "")


def _send_signal() -> None:
    fd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)


def _read_memory() -> None:
    zero = ctypes.c_ulong(0)
    if _libc.process_vm_readv(os.getpid(), None, zero, None, zero, zero) == -1:
        raise OSError(ctypes.get_errno(), "")


def _openat2() -> None:
    how = (ctypes.c_uint64 * 3)(os.O_PATH, 0, 0)  # struct open_how of linux/openat2.h
    _raw(OPENAT2, -100, b"/", ctypes.byref(how), ctypes.sizeof(how))


def _robust_list() -> None:
    address, size = ctypes.c_uint64(0), ctypes.c_size_t(0)
    _raw(GET_ROBUST_LIST, 0, ctypes.byref(address), ctypes.byref(size))


def _lock_memory() -> None:
    # No flag at all is EINVAL, mlock(2): nothing is locked, and a filter answers first.
    if _libc.mlockall(0) == -1 and ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), "")


#: Each changes nothing.
_CALLS: Final[Mapping[str, Callable[[], None]]] = {
    "pidfd_open": lambda: os.close(os.pidfd_open(os.getpid())),
    "pidfd_send_signal": _send_signal,
    "openat2": _openat2,
    "kcmp": lambda: _raw(KCMP, os.getpid(), os.getpid(), _KCMP_VM, 0, 0),
    "get_robust_list": _robust_list,
    "process_vm_readv": _read_memory,
    "sched_setaffinity": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "sched_setscheduler": lambda: os.sched_setscheduler(0, os.sched_getscheduler(0), os.sched_getparam(0)),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0)),
    "mlockall": _lock_memory,
}
