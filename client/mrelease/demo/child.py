"""What the scene starts, one process each; run as a script with ``python -I``, so it imports nothing of mrelease.

``child.py PARENT victim SIZE busy|asleep``  holds SIZE bytes of private anonymous memory
``child.py PARENT spin SECONDS``             competes for a CPU
``child.py PARENT exec FILE ARGUMENT...``    becomes another program

Each ends when PARENT does (PR_SET_PDEATHSIG), and leaves its terminal's process group so that Ctrl-C reaches PARENT alone. It stays in the
session: sched(7) autogroups share the CPU by session, and victims and spinners must compete in one.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PAGE = 4096
_CHUNK = 1 << 20


def end_with(parent: int, number: signal.Signals) -> None:
    """Let the kernel send ``number`` when the parent's thread that started this process ends, prctl(2)."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(1)


def victim(size: int, *, busy: bool) -> None:
    """Touch ``size`` bytes in pages of 4 KiB once a line arrives, say so, then go on writing to them or sleep."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")  # should memory run out all the same, nobody else is to die of it
    sys.stdin.readline()
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):  # a kernel or a C library without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    chunk = b"\x01" * _CHUNK
    for start in range(0, size, _CHUNK):
        memory[start : start + _CHUNK] = chunk[: min(_CHUNK, size - start)]
    print("ready", flush=True)
    turn = 1
    while busy:
        turn = (turn + 1) % 256
        for page in range(0, size, _PAGE):
            memory[page] = turn
    while True:
        signal.pause()


def spin(seconds: int) -> None:
    """Use a whole CPU for at most ``seconds``."""
    signal.alarm(seconds)
    print("ready", flush=True)
    while True:
        pass


def main(arguments: list[str]) -> None:
    """Do what the arguments say."""
    parent, role, *rest = arguments
    if role == "exec":
        end_with(int(parent), signal.SIGTERM)
        os.execv(rest[0], rest)  # noqa: S606 - the parent wrote the arguments
    end_with(int(parent), signal.SIGKILL)
    if role == "victim":
        victim(int(rest[0]), busy=rest[1] == "busy")
    elif role == "spin":
        spin(int(rest[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
