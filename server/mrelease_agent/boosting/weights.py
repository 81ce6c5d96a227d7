"""The control files that a lift writes, and how one is restored without overwriting what somebody else has written since."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from enum import Enum
from typing import Final

from mrelease_agent.boosting.journal import Entry, File
from mrelease_agent.linux.cgroup_tree import Tree, read, write

#: What is written, in this order, by hierarchy version. cpu.idle first: an idle cgroup has no weight to write (EINVAL). The limit too:
#: before Linux 6.18 a victim in a throttled cgroup does not run, whatever its weight.
HIGHEST: Final[Mapping[int, tuple[tuple[File, str], ...]]] = {
    1: (("cpu.idle", "0"), ("cpu.shares", "262144"), ("cpu.cfs_quota_us", "-1")),
    2: (("cpu.idle", "0"), ("cpu.weight", "10000"), ("cpu.max", "max")),
}


class Restored(Enum):
    """What became of a lifted value."""

    DONE = "restored"
    ALREADY = "was restored already, or never written"
    CHANGED = "somebody else has written it since: left alone"
    GONE = "the cgroup is gone"
    FAILED = "could not be written"


def value_of(fd: int, file: str) -> str:
    """Value of a control file; empty where there is none. Raises OSError."""
    return read(fd, file).decode("ascii", "replace").strip()


def lifted_value(file: str, highest: str, was: str) -> str | None:
    """What a file will show once it is lifted; None where it is as high already. cpu.max keeps its period."""
    first, _, period = was.partition(" ")
    if first in ("", highest):
        return None
    return f"{highest} {period}" if file == "cpu.max" else highest


def restore(tree: Tree, entry: Entry) -> Restored:
    """Write the value from before the lift, if the file still shows the lifted one."""
    try:
        fd = tree.open(entry.path)
    except (OSError, ValueError):
        return Restored.GONE
    try:
        if os.fstat(fd).st_ino != entry.inode:
            return Restored.GONE
        shown = value_of(fd, entry.file)
        if shown != entry.now:
            return Restored.ALREADY if shown == entry.was else Restored.CHANGED
        write(fd, entry.file, entry.was.encode("ascii"))
    except OSError as error:
        return Restored.GONE if error.errno in (errno.ENODEV, errno.ENOENT) else Restored.FAILED
    finally:
        os.close(fd)
    return Restored.DONE
