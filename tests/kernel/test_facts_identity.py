"""What tells two processes with one pid apart: DESIGN 2.8."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import lab

TRIES = 200
PIDFD_GET_INFO = 0xC040FF0B


@contextmanager
def opened(pid: int) -> Generator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def pid_of(pidfd: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines())
    return int(fields["Pid"])


def need_unique_inodes() -> None:
    with lab.live(0) as one, lab.live(0) as other:
        if os.fstat(one.pidfd).st_ino == os.fstat(other.pidfd).st_ino:
            raise lab.Unavailable("all pidfds share one inode here (before Linux 6.9)")


def test_pidfds_of_one_process_have_one_inode_and_those_of_others_another() -> None:
    need_unique_inodes()
    with lab.live(0) as one, lab.live(0) as other, opened(one.pid) as again:
        assert os.fstat(one.pidfd).st_ino == os.fstat(again).st_ino != os.fstat(other.pidfd).st_ino


def test_kernels_from_6_9_on_have_unique_inodes() -> None:
    if lab.kernel_release() < (6, 9):
        raise lab.Unavailable("pidfs came with Linux 6.9")
    need_unique_inodes()


def test_pidfd_get_info_tells_the_pid_or_is_refused_in_one_of_two_ways() -> None:
    # struct pidfd_info, first version, 64 bytes: mask, cgroupid, pid, tgid, ppid and more
    with lab.live(0) as victim:
        info = bytearray(struct.pack("=QQ12i", 0xFF, 0, *[0] * 12))
        if lab.kernel_release() >= (6, 13):
            fcntl.ioctl(victim.pidfd, PIDFD_GET_INFO, info)
            assert struct.unpack("=QQ12i", info)[2] == victim.pid
        else:
            with pytest.raises(OSError, match=r"Inappropriate ioctl|Invalid argument"):
                fcntl.ioctl(victim.pidfd, PIDFD_GET_INFO, info)


def test_recycled_pid_has_another_inode() -> None:
    need_unique_inodes()
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        seen: set[int] = set()
        for _ in range(TRIES):
            with opened(pid) as pidfd:
                seen.add(os.fstat(pidfd).st_ino)
            reuse.reuse(pid)
        assert len(seen) == TRIES


def test_recycled_pid_often_has_the_same_start_time() -> None:
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        for _ in range(TRIES):
            before = lab.start_time(pid)
            reuse.reuse(pid)
            if lab.start_time(pid) == before:
                return
    pytest.fail(f"start times differed in all of {TRIES} tries")


def test_pidfd_of_the_old_process_never_reaches_the_new_one() -> None:
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        for _ in range(TRIES):
            with opened(pid) as old:
                assert pid_of(old) == pid
                reuse.reuse(pid)
                assert pid_of(old) == -1
                assert lab.wait_readable(old, 0)
                with pytest.raises(ProcessLookupError):
                    signal.pidfd_send_signal(old, signal.SIGKILL)
            with opened(pid) as new:
                assert not lab.wait_readable(new, 0)
