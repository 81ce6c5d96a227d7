"""Makes processes with chosen pids (clone3(2), set_tid), which sleep, and replaces one by another under the same pid.

One thread only, so that the copies that clone3 makes of this interpreter hold no lock of another thread.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import signal
import sys
from pathlib import Path

SYS_CLONE3 = 435
RESERVED = 300
PR_SET_PDEATHSIG = 1

# PyDLL keeps the interpreter lock: the copy must not have to take it again.
libc = ctypes.PyDLL(None, use_errno=True)
alive: set[int] = set()


def clone(pid: int) -> int:
    """Makes a sleeping process with that pid; returns 0 or the errno."""
    wanted = (ctypes.c_int * 1)(pid)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    made = libc.syscall(ctypes.c_long(SYS_CLONE3), arguments, ctypes.c_size_t(ctypes.sizeof(arguments)))
    if made == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        while True:
            libc.pause()
    if made < 0:
        return ctypes.get_errno()
    alive.add(pid)
    return 0


def spawn() -> int:
    """Makes a process under a pid that the kernel will give to nobody soon, at least a quarter of the range away from the last one.

    Which one is random, so that forkers beside each other do not take each other's.
    """
    last = int(Path("/proc/loadavg").read_text().split()[4])
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    for _ in range(1000):
        pid = RESERVED + (last + limit // 4 + random.randrange(limit // 2)) % (limit - RESERVED)
        code = clone(pid)
        if code == 0:
            return pid
        if code != errno.EEXIST:
            raise OSError(code, f"clone3 with a chosen pid: {os.strerror(code)}")
    raise OSError(errno.EEXIST, "no free pid found")


def end(pid: int) -> None:
    """Kills and reaps."""
    alive.remove(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def reuse(pid: int) -> int:
    """Kills, reaps, and gives the pid to a new process at once."""
    end(pid)
    code = clone(pid)
    if code:
        raise OSError(code, f"pid {pid} again: {os.strerror(code)}")
    return pid


def obey(order: str, pid: int = 0) -> int:
    if order == "spawn":
        return spawn()
    if order == "reuse":
        return reuse(pid)
    end(pid)
    return pid


if __name__ == "__main__":
    for line in sys.stdin.buffer:
        try:
            answer: dict[str, object] = {"pid": obey(**json.loads(line))}
        except OSError as failure:
            answer = {"error": failure.errno, "text": failure.strerror}
        os.write(1, json.dumps(answer).encode() + b"\n")
    for child in list(alive):
        end(child)
