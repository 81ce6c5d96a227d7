"""ProcessRef: a process that cannot be mistaken for another one."""

from __future__ import annotations

import errno
import os
import signal
from types import TracebackType
from typing import Final, NamedTuple

from mrelease_agent.linux import procfs
from mrelease_agent.linux.procfs import Memory, ProcessGoneError, Stat

#: PID_MAX_LIMIT of linux/threads.h on 64-bit machines.
PID_MAX: Final = 4194304


class NotALeaderError(Exception):
    """The id belongs to a thread that does not lead its thread group; ``leader`` is the process."""

    def __init__(self, leader: int) -> None:
        super().__init__(leader)
        self.leader = leader


class Identity(NamedTuple):
    """Everything that identifies a process on its node, with its name; outlives the reference."""

    pid: int
    inode: int
    start_time: int
    command: str


class ProcessRef:
    """One process as pid, pidfd, pidfd inode and ``/proc`` directory fd: one owning value, closed by close() or ``with``.

    A pid is only a number that may mean another process a moment later; the two fds always mean this one. Everything after resolution
    goes through them.
    """

    __slots__ = ("fd", "inode", "pid", "proc", "stat")

    def __init__(self, pid: int, fd: int, proc: int, stat: Stat) -> None:
        self.pid = pid
        self.fd = fd
        self.proc = proc
        #: Inode number of the pidfd: unique until the next boot where FEATURE_PIDFD_INODE is there, meaningless elsewhere.
        self.inode = os.fstat(fd).st_ino
        #: As it was when the reference was made.
        self.stat = stat

    @classmethod
    def open(cls, pid: int, *, checked: bool = True) -> ProcessRef:
        """Refer to the process that has ``pid`` now.

        Order matters: the pidfd first, then ``/proc``, then the check that the pidfd still has that pid. Because the pid was this
        process's all the time between, what was read is this process's too. Not ``checked``, it is no reference yet: has_pid() is to be
        asked when all that concerns the pid has been read.

        Raises ProcessGoneError; NotALeaderError; OSError for limits (EMFILE, ENFILE, ENOMEM).
        """
        try:
            fd = os.pidfd_open(pid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise ProcessGoneError from None
            # A thread's id: EINVAL before Linux 6.15, ENOENT since (kernel/fork.c, pidfd_prepare).
            if error.errno in (errno.EINVAL, errno.ENOENT):
                raise NotALeaderError(_leader_of(pid)) from None
            raise
        proc = -1
        try:
            proc = procfs.open_process(pid)
            stat = procfs.stat(proc)
            ref = cls(pid, fd, proc, stat)
            if checked and not ref.has_pid():
                raise ProcessGoneError
            return ref
        except BaseException:
            os.close(fd)
            if proc >= 0:
                os.close(proc)
            raise

    def dup(self) -> ProcessRef:
        """Another reference to the same process, for a thread that may outlive this one. Raises OSError for limits."""
        fd = os.dup(self.fd)
        try:
            return ProcessRef(self.pid, fd, os.dup(self.proc), self.stat)
        except BaseException:
            os.close(fd)
            raise

    @property
    def identity(self) -> Identity:
        """What identifies the process."""
        return Identity(self.pid, self.inode, self.stat.start_time, self.stat.comm)

    def close(self) -> None:
        """Close both fds; harmless when repeated."""
        fd, proc, self.fd, self.proc = self.fd, self.proc, -1, -1
        for number in (fd, proc):
            if number >= 0:
                os.close(number)

    def __enter__(self) -> ProcessRef:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def send_signal(self, number: int) -> None:
        """pidfd_send_signal(2); 0 only checks. Raises ProcessLookupError (reaped), PermissionError."""
        signal.pidfd_send_signal(self.fd, number)

    def has_pid(self) -> bool:
        """Whether the process still has its pid, which it has until it is reaped. After close() the start time has to do for an answer.

        Signal 0 finds exactly those that are not reaped, zombies included (kernel/signal.c, kill_pid_info), in a tenth of the time that
        fdinfo takes.
        """
        fd = self.fd
        if fd >= 0:
            try:
                signal.pidfd_send_signal(fd, 0)
            except ProcessLookupError:
                return False
            except OSError:  # PermissionError can be the kernel's, which has found it, or that of a seccomp profile, which has not looked
                return pid_of(fd) == self.pid
            if self.fd == fd:  # not closed meanwhile, on another thread
                return True
        return procfs.start_time(self.pid) == self.stat.start_time

    def memory(self) -> Memory | None:
        """Memory now; None where no thread has the address space any more, which proves nothing."""
        found = procfs.address_space(self.proc)
        return None if found is None else found[1]


def pid_of(pidfd: int) -> int:
    """``Pid`` of the pidfd's fdinfo: -1 when reaped, 0 when not of this PID namespace; pidfd_open(2)."""
    with open(f"/proc/self/fdinfo/{pidfd}", "rb") as info:
        return next(int(line[4:]) for line in info if line.startswith(b"Pid:"))


def _leader_of(tid: int) -> int:
    proc = procfs.open_process(tid)
    try:
        return procfs.status(proc).tgid
    finally:
        os.close(proc)
