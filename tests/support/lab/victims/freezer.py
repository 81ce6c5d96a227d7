"""Mounts a file system of its own in a mount namespace of its own, and freezes it when told to.

It is thawed when stdin ends, also when that is because the test process was killed: a frozen file system outlives its mount.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def say(**facts: object) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def command(*words: str) -> None:
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise OSError(0, ran.stderr.strip() or f"{words[0]} failed")


def obey(top: int) -> None:
    """One order: freeze. The end of stdin thaws."""
    frozen = False
    try:
        while sys.stdin.buffer.readline():
            fcntl.ioctl(top, FIFREEZE, 0)
            frozen = True
            say()
    finally:
        if frozen:
            fcntl.ioctl(top, FITHAW, 0)


def main(folder: str, size: int) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "making mounts private")
    with tempfile.TemporaryDirectory(prefix="mrelease-lab-", dir=folder) as temporary:
        image, target = Path(temporary, "image"), Path(temporary, "mounted")
        with image.open("wb") as file:
            file.truncate(size)
        target.mkdir()
        command("mkfs.ext4", "-q", str(image))
        # The loop device goes with the mount.
        command("mount", "-o", "loop", str(image), str(target))
        try:
            (target / "file").touch()
            top = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
            try:
                say(path=str(target / "file"))
                obey(top)
            finally:
                os.close(top)
        finally:
            # The last writer may still be on its way out: the mount goes when it has gone.
            command("umount", "--lazy", str(target))


if __name__ == "__main__":
    try:
        main(**json.loads(sys.argv[1]))
    except OSError as failure:
        say(error=failure.errno, text=str(failure))
