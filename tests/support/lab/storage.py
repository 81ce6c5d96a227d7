"""Victims of storage: one that waits for a frozen file system, one whose memory is in swap."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from .cgroups import Cgroup
from .child import MIB, Child, Victim, holding, started
from .kernel import Unavailable, need_root, until
from .readers import field_bytes, state, threads

FOLDER = "/var/tmp"  # on a disk, where /tmp may be memory


def _need(*programs: str) -> None:
    need_root("mounting and swapping")
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        raise Unavailable(f"not installed: {', '.join(missing)}")


@dataclass(frozen=True, slots=True)
class FrozenFsVictim(Victim):
    """A victim that waits in `tid` for a frozen file system."""

    tid: int
    _freezer: Child

    def thaw(self) -> None:
        """Thaws the file system: the victim goes on; killed, it exits now."""
        self._freezer.hang_up()


@contextlib.contextmanager
def frozen_fs(size: int = 16 * MIB, *, worker: bool = False, within: Iterable[Cgroup] = ()) -> Generator[FrozenFsVictim]:
    """A live victim whose main thread, or one worker thread, writes to a frozen file system (ioctl_fifreeze): state D.

    SIGKILL does not end it before the thaw. Root only.
    """
    _need("mkfs.ext4", "mount")
    with started("freezer.py", kill=False, folder=FOLDER, size=32 * MIB) as freezer:
        try:
            said = freezer.hear("a mounted file system")
        except Unavailable as refused:
            raise Unavailable(f"a file system on a loop device: {refused}") from None
        with holding(size, within=within) as (child, victim, _):
            before = set(threads(victim.pid))
            freezer.ask("freeze")
            try:
                child.order("write", path=f"/proc/{freezer.pid}/root{said['path']}", thread=worker)
                until(lambda: any(state(victim.pid, tid) == "D" for tid in threads(victim.pid)), f"process {victim.pid} waits for the thaw")
                tid = next(iter(set(threads(victim.pid)) - before)) if worker else victim.pid
                yield FrozenFsVictim(victim.pid, victim.size_bytes, victim.pidfd, tid, freezer)
            finally:
                victim.kill()
                freezer.hang_up()


@contextlib.contextmanager
def swap(size: int) -> Generator[None]:
    """`size` bytes of swap, on a disk, taken before any other swap; gone at the end. Root only."""
    _need("mkswap")
    if shutil.disk_usage(FOLDER).free < 2 * size:
        raise Unavailable(f"no room for a swap file in {FOLDER}")
    with started("swap_guard.py", kill=False, folder=FOLDER, size=size) as guard:
        guard.hear("swap")
        yield


@contextlib.contextmanager
def swapped(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A victim whose memory is in swap, nearly all of it (VmSwap), by MADV_PAGEOUT."""
    with swap(2 * size + 16 * MIB), holding(size, within=within) as (child, victim, _):

        def is_out() -> bool:
            child.ask("page_out")
            return field_bytes(victim.pid, "VmSwap") >= size * 0.99

        until(is_out, f"the memory of process {victim.pid} is in swap")
        yield victim
