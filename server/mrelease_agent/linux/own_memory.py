"""The agent's own memory: kept in RAM, and the last that the OOM killer takes, so that it works when there is none left for others."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
from typing import Final

from mrelease_agent.linux import forbidden
from mrelease_agent.linux.capabilities import effective_capability

_libc = ctypes.CDLL(None, use_errno=True)
# asm/mman.h; ONFAULT: Linux 4.4. What is mapped now and later is locked, each page when it is first used.
_CURRENT, _FUTURE, _ONFAULT = (0x2000, 0x4000, 0x8000) if platform.machine().startswith("ppc") else (1, 2, 4)
_CAP_IPC_LOCK: Final = 14  # linux/capability.h
_OOM_SCORE_ADJ: Final = "/proc/self/oom_score_adj"


def lock() -> None:
    """Keep every page of this process in RAM from its first use on, mlockall(2): its code too, which else is read from disk again.

    Without CAP_IPC_LOCK the kernel counts what is mapped, used or not, and what comes to be mapped later may be refused: it is not done.

    Raises OSError that says what to change.
    """
    if not effective_capability(_CAP_IPC_LOCK) and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY:
        raise OSError(
            errno.EPERM, "no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is not unlimited: give it one of these (systemd: LimitMEMLOCK=infinity)"
        )
    forbidden.check("mlockall")
    if _libc.mlockall(_CURRENT | _FUTURE | _ONFAULT) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"mlockall(2) answers {errno.errorcode.get(number, number)}: allow it in the seccomp profile")


def spare(score: int) -> None:
    """Let the OOM killer take others first: ``score`` is an oom_score_adj, proc_pid_oom_score_adj(5); a lower one stays.

    Raises OSError that says what to change.
    """
    with open(_OOM_SCORE_ADJ, encoding="ascii") as file:
        now = int(file.read())
    if now <= score:
        return
    try:
        fd = os.open(_OOM_SCORE_ADJ, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"%d" % score)
        finally:
            os.close(fd)
    except PermissionError as error:
        raise OSError(
            error.errno, f"it stays {now}, for less needs CAP_SYS_RESOURCE: start the agent with it (systemd: OOMScoreAdjust={score})"
        ) from None
