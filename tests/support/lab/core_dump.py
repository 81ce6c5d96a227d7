"""A victim in the middle of a core dump."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

from .child import MIB, Victim, holding
from .fuse import HangingVictim, hang_fs, killed_after_abort
from .kernel import PATIENCE, Unavailable, need_root, wait_readable
from .sysctl import sysctl

FOLDER, PREFIX = "/tmp", "mrelease-lab-core-"  # core_pattern takes 127 bytes, so not the configured temporary folder
HELPER = """#!/bin/sh
[ "$1" = {pid} ] || exit 0
echo began >{folder}/began
read -r line <{folder}/hold
"""


@contextlib.contextmanager
def core_dumping(size: int = 16 * MIB) -> Generator[Victim]:
    """A victim that dumps core into a helper (core(5)) which does not read: it stays so until SIGKILL or the end of the context.

    kernel.core_pattern is another one only until the helper has started. Root only, and not in a container: the kernel starts the
    helper in the initial mount namespace.
    """
    need_root("setting kernel.core_pattern")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=PREFIX, dir=FOLDER)))
        fifos: list[int] = []
        for name in ("began", "hold"):
            os.mkfifo(folder / name)
            # Open for both, so that neither side waits to open; the helper's read ends when this process closes it, or dies.
            fifos.append(os.open(folder / name, os.O_RDWR | os.O_CLOEXEC))
            stack.callback(os.close, fifos[-1])
        child, victim, _ = stack.enter_context(holding(size))
        helper = folder / "helper"
        helper.write_text(HELPER.format(pid=victim.pid, folder=folder))
        helper.chmod(0o755)
        with sysctl(Path("/proc/sys/kernel/core_pattern"), f"|{helper} %P", leftover=f"|{FOLDER}/{PREFIX}", default="core"):
            child.order("abort")
            while not wait_readable(fifos[0], 0.01):
                if victim.exited(0):
                    raise Unavailable("the kernel did not start the core dump helper: another mount or pid namespace, or no core dumps")
        if not wait_readable(fifos[0], PATIENCE):
            raise TimeoutError("waited for the core dump helper")
        yield victim


@contextlib.contextmanager
def core_dump_stuck(size: int = 16 * MIB) -> Generator[HangingVictim]:
    """A victim that dumps core into a file system which does not answer: SIGKILL does not end it, process_mrelease(2) is EINVAL."""
    with hang_fs("WRITE") as fs, killed_after_abort(fs, size) as (child, victim):
        core = str(Path(fs.path).with_name("core"))
        with sysctl(Path("/proc/sys/kernel/core_pattern"), core):
            child.order("abort")
            fs.wait_held("WRITE")
        yield HangingVictim(victim.pid, victim.size_bytes, victim.pidfd, victim.pid, fs)
