"""Calls process_mrelease(2) on an inherited pidfd each time it is told to, perhaps as another user, and says the errno."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def ignore(number: int, frame: object) -> None:
    """A handler: unlike SIG_IGN it lets the signal become pending."""


def main(pidfd: int, uid: int | None) -> None:
    # A handled signal, so that only a call that such a signal cannot wake is left blocked by it.
    signal.signal(signal.SIGUSR1, ignore)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    say(ready=True)
    for line in sys.stdin.buffer:
        fd = json.loads(line).get("fd", pidfd)
        answer = libc.syscall(ctypes.c_long(448), ctypes.c_int(fd), ctypes.c_uint(0))
        say(errno=ctypes.get_errno() if answer < 0 else 0)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
