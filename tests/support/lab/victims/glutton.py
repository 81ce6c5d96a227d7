"""Takes the node's memory: until only so much is left, or again and again until the OOM killer ends it.

The memory is taken by children, which the OOM killer is to take first; when stdin ends they end too.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import sys

STEP = 2 << 20
PR_SET_PDEATHSIG = 1
MCL_CURRENT = 1

libc = ctypes.CDLL(None)


def left() -> int:
    """What can still be taken, in bytes."""
    with open("/proc/meminfo") as lines:
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("MemAvailable:", "SwapFree:")))


def eat(floor: int) -> None:
    """Takes memory until no more than `floor` bytes are left."""
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")
    # Else its own code is read again and again from the disk while memory is short, and it gets no further.
    libc.mlockall(MCL_CURRENT)
    areas: list[mmap.mmap] = []
    while left() > floor:
        area = mmap.mmap(-1, STEP, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_NOHUGEPAGE)
        area.write(b"\x5a" * STEP)
        areas.append(area)
    os.write(1, json.dumps({"left": left()}).encode() + b"\n")
    signal.pause()


def start(floor: int) -> int:
    """Forks one that eats; returns its pidfd."""
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        eat(floor)
    return os.pidfd_open(pid)


def main(floor: int, forever: bool) -> None:
    """With `forever` one that was killed is followed by the next, and each death is said."""
    while True:
        eater = start(-1 if forever else floor)
        poll = select.poll()
        poll.register(eater, select.POLLIN)
        poll.register(0, select.POLLIN)
        if any(fd == 0 for fd, _ in poll.poll()):
            return
        os.wait()
        os.close(eater)
        os.write(1, json.dumps({"killed": True}).encode() + b"\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
