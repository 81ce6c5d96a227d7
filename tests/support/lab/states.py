"""Victims in the states that an ordinary process gets into: each a context manager that cleans up after itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from .cgroups import Cgroup
from .child import MIB, Victim, holding
from .kernel import Unavailable, need_root, until
from .readers import flags, state

PF_KTHREAD = 0x00200000
NOBODY = 65534


@contextlib.contextmanager
def live(size: int = 16 * MIB, *, uid: int | None = None, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A process that sleeps and holds `size` bytes of private anonymous memory in base pages.

    `uid` gives it to another user (root only); `within` are groups in which it starts.
    """
    if uid is not None:
        need_root("a victim of another user")
    with holding(size, uid=uid, within=within) as (_, victim, _facts):
        yield victim


@contextlib.contextmanager
def stopped(size: int = 16 * MIB) -> Generator[Victim]:
    """A process in state T, by SIGSTOP."""
    with live(size) as victim:
        signal.pidfd_send_signal(victim.pidfd, signal.SIGSTOP)
        os.waitid(os.P_PID, victim.pid, os.WSTOPPED | os.WNOWAIT)
        yield victim


@contextlib.contextmanager
def zombie(size: int = MIB) -> Generator[Victim]:
    """A process that has exited and that nobody has reaped; `size` is what it had."""
    with holding(size) as (child, victim, _):
        child.order("leave")
        if not victim.exited():
            raise TimeoutError("waited for the exit of the future zombie")
        yield victim


@contextlib.contextmanager
def zombie_leader(size: int = 16 * MIB) -> Generator[Victim]:
    """A process whose main thread has exited while another thread lives on with the memory: its statm reads 0."""
    with holding(size) as (child, victim, _):
        child.ask("leave_leader")
        until(lambda: state(victim.pid) == "Z", f"the leader of process {victim.pid} becomes a zombie")
        yield victim


@contextlib.contextmanager
def reaped() -> Generator[Victim]:
    """A process that is gone: its pid is free, its pidfd is still open."""
    with holding(0) as (child, victim, _):
        child.order("leave")
        child.reap()
        yield victim


def kernel_thread() -> int:
    """Returns the pid of a kernel thread. Raises Unavailable in a pid namespace, which has none."""
    pids = sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if flags(pid) & PF_KTHREAD:
                return pid
    raise Unavailable("no kernel thread is visible in this pid namespace")


@dataclass(frozen=True, slots=True)
class SharedVictim(Victim):
    """A victim whose address space also belongs to another process."""

    sharer_pid: int
    """Process, not thread, in the same address space; child of `pid`, sleeping in pause(2)."""


@contextlib.contextmanager
def _shared(size: int, within: Iterable[Cgroup], *, vfork: bool, uid: int | None = None) -> Generator[SharedVictim]:
    if uid is not None:
        need_root("a victim of another user")
    with holding(size, within=within, uid=uid) as (child, victim, _):
        sharer = int(child.ask("share", vfork=vfork)["pid"])
        pidfd = os.pidfd_open(sharer)
        try:
            yield SharedVictim(victim.pid, victim.size_bytes, victim.pidfd, sharer)
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


@contextlib.contextmanager
def clone_vm_sharer(size: int = 16 * MIB, *, uid: int | None = None, within: Iterable[Cgroup] = ()) -> Generator[SharedVictim]:
    """A victim and a second process in one address space, by clone(2) with CLONE_VM: both live, neither waits for the other.

    `uid` gives both to another user (root only).
    """
    with _shared(size, within, vfork=False, uid=uid) as victim:
        yield victim


@contextlib.contextmanager
def vfork_sharer(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[SharedVictim]:
    """A victim in vfork(2), state D (killable), and its child, which never calls execve(2)."""
    with _shared(size, within, vfork=True) as victim:
        yield victim


@contextlib.contextmanager
def many_threads(count: int, size: int = 16 * MIB) -> Generator[Victim]:
    """A process with `count` threads besides its main thread."""
    with holding(size, threads=count) as (_, victim, _facts):
        yield victim


@contextlib.contextmanager
def starved(size: int = 16 * MIB, *, spinners: int = 2, within: Iterable[Cgroup] = ()) -> Generator[Victim]:
    """A SCHED_IDLE process on the highest CPU that this process may use, beside `spinners` busy processes pinned to the same CPU."""
    cpu = max(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        _, victim, _ = stack.enter_context(holding(size, idle=True, cpu=cpu, within=within))
        for _ in range(spinners):
            child, _, _ = stack.enter_context(holding(0, cpu=cpu))
            child.ask("spin")
        yield victim
