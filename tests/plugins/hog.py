"""What a job does whose storage has gone: it has taken its memory, and one of its threads waits in a read that nobody answers.

A worker of an orchestrator calls ``take_and_hang``, or runs ``python hog.py MIB [FILE]``; without a file it only waits. Killed, its leader
is a zombie and that thread stays in state D with all of the memory. It imports nothing but the standard library, so that it can be
copied to where the orchestrator's users may read it.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading

MIB = 1 << 20


def take(size: int) -> bytes:
    """Private anonymous memory, every page of it written to."""
    return b"\x01" * size


def hang(path: str) -> None:
    """Read a file of ``support.lab.hang_fs("READ")``, past the page cache. Returns when the file system is let go."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        os.readv(fd, [mmap.mmap(-1, mmap.PAGESIZE)])
    except OSError:
        pass  # it was let go
    finally:
        os.close(fd)


def take_and_hang(size: int, path: str) -> int:
    """Take memory and wait for a thread that hangs. Returns the size, long after everybody has lost patience."""
    held = take(size)
    thread = threading.Thread(target=hang, args=(path,), daemon=True)
    thread.start()
    thread.join()
    return len(held)


if __name__ == "__main__":
    amount = int(sys.argv[1]) * MIB
    if len(sys.argv) > 2:
        take_and_hang(amount, sys.argv[2])
    else:
        kept = take(amount)
        threading.Event().wait()
