"""The lab's FUSE file system that holds reads, mounted where all of this mount namespace sees it: for jobs of ordinary users.

`support/lab/victims/fuse_server.py` makes a mount namespace of its own, into which only root can follow.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.lab.victims import fuse_server

MNT_DETACH = 2


def mount(target: str) -> int:
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions".encode()
    flags = ctypes.c_ulong(fuse_server.MS_NOSUID | fuse_server.MS_NODEV)
    fuse_server.check(fuse_server.libc.mount(b"mrelease-slurm", target.encode(), b"fuse", flags, options), "mount fuse")
    return device


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    try:
        fuse = mount(asked["target"])
    except OSError as failure:
        fuse_server.say(error=failure.errno, text=str(failure))
        sys.exit(1)
    fuse_server.say(pid=os.getpid())
    try:
        fuse_server.serve(fuse, set(asked["held"]))
    finally:
        fuse_server.libc.umount2(asked["target"].encode(), MNT_DETACH)
