"""The table of mounts: what others name their directories neither breaks it nor becomes a mount of cgroups."""

from __future__ import annotations

from typing import get_args

from fuzz.kit import halves
from mrelease_agent.linux.cgroup_tree import Controller, mounts

CGROUPS = (
    b"25 1 0:22 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
    b"26 1 0:23 /../.. /host/sys/fs/cgroup rw,nosuid shared:7 - cgroup2 cgroup2 rw,nsdelegate\n"
)
ESCAPED = {ord(character): rf"\{ord(character):03o}" for character in " \t\n\\"}


def one_input(data: bytes) -> None:
    """Mount point and source of a file system of somebody else's, such as FUSE, as the kernel writes them (fs/proc_namespace.c)."""
    path, source = (half.replace(b"\0", b"?").decode("utf-8", "surrogateescape").translate(ESCAPED) for half in halves(data))
    table = f"99 1 0:99 / /{path} rw - fuse.x {source or 'none'} rw,user_id=1000\n".encode("utf-8", "surrogateescape") + CGROUPS
    for controller in get_args(Controller):
        found = mounts(table, controller)
        assert found == mounts(CGROUPS, controller)
        assert [number for _, number in found] in ([25], [26], [])
