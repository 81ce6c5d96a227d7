"""Real memory pressure, and no more of it than one small cgroup can make."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from .cgroups import Cgroup, cgroup_below, memory_cgroup
from .child import MIB, started
from .kernel import Unavailable

_LIMIT, _FILE = 16 * MIB, 64 * MIB
#: Pages of these are no page cache: what is read of them cannot be reclaimed.
_IN_MEMORY = {"tmpfs", "ramfs"}


@contextlib.contextmanager
def thrashing(within: Sequence[Cgroup] = ()) -> Generator[None]:
    """For as long as it lasts a process stalls for memory about a third of the time, as PSI of the node and of ``within`` shows.

    It reads 64 MiB of holes in a memory cgroup of 16 MiB: no disk is read, and no other process loses a page.
    """
    if not Path("/proc/pressure/memory").exists():
        raise Unavailable("the kernel does not measure memory pressure (PSI)")
    folder = next((path for path in (tempfile.gettempdir(), "/var/tmp") if _kind(path) not in _IN_MEMORY), None)
    if folder is None:
        raise Unavailable("every directory for temporary files is in memory")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="mrelease-lab-", dir=folder))
        file.truncate(_FILE)
        group = stack.enter_context(_memory_cgroup(within))
        group.write("memory.max" if group.version == 2 else "memory.limit_in_bytes", str(_LIMIT))
        others = [each for each in within if each.version != group.version]
        procs = [str(each.path / "cgroup.procs") for each in (*others, group)]
        child = stack.enter_context(started("thrasher.py", file=file.name, size=_FILE, cgroups=procs))
        child.hear("it begins to read")
        yield


def _memory_cgroup(within: Sequence[Cgroup]) -> AbstractContextManager[Cgroup]:
    """A group that counts memory: below ``within`` where that is of v2 and counts memory itself, since nobody is in two groups of v2."""
    above = next((each for each in within if each.version == 2 and (each.path / "memory.current").exists()), None)
    return memory_cgroup() if above is None else cgroup_below(above, "thrashing", ["memory"])


def _kind(path: str) -> str:
    # Kind of the file system, proc_pid_mountinfo(5).
    device = Path(path).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return next((right.split()[0] for left, right in lines if left.split()[2] == number), "")
