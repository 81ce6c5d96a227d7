"""Victims that wait for a file system which does not answer: state D, where SIGKILL does nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from .cgroups import Cgroup
from .child import MIB, Child, Victim, holding, started
from .kernel import Unavailable, need_root, until
from .readers import state, statm_resident, threads


@dataclass(frozen=True, slots=True)
class HangFs:
    """A mounted FUSE file system that does not answer the held requests."""

    server: Child
    path: str
    """Its one file, as other processes reach it through the server's mount namespace; O_DIRECT leaves out the page cache."""

    def wait_held(self, request: str) -> int:
        """Waits until a request of that name is being held; returns the pid that made it, 0 for the kernel's own."""
        while True:
            said = self.server.hear(f"a held {request}")
            if said["request"] == request:
                return int(said["pid"])

    def let_go(self) -> None:
        """Aborts the connection: every waiter goes on with an error."""
        self.server.hang_up()
        self.server.reap()


@contextlib.contextmanager
def hang_fs(*held: str) -> Generator[HangFs]:
    """Mounts a file system that holds the named requests (READ, FLUSH, WRITE); no process elsewhere sees the mount."""
    need_root("mounting FUSE")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Unavailable("no usable /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="mrelease-lab-") as target, started("fuse_server.py", target=target, held=held) as server:
        try:
            server.hear("FUSE mounted")
        except Unavailable as refused:
            raise Unavailable(f"mounting FUSE: {refused}") from None
        yield HangFs(server, f"/proc/{server.pid}/root{target}/file")


@dataclass(frozen=True, slots=True)
class HangingVictim(Victim):
    """A victim that waits for the file system in `tid`."""

    tid: int
    fs: HangFs

    def let_go(self) -> None:
        """Lets the victim go on: killed, it exits now."""
        self.fs.let_go()


@contextlib.contextmanager
def d_state(size: int = 16 * MIB, *, worker: bool = False, within: Iterable[Cgroup] = ()) -> Generator[HangingVictim]:
    """A killed victim whose main thread, or one worker thread, stays in state D; with `worker` its leader is a zombie.

    Killing it again, or releasing it, is what a test does next.
    """
    with unkillable(size, worker=worker, within=within) as victim:
        victim.kill()
        until(lambda: state(victim.pid, victim.tid) == "D", f"thread {victim.tid} of killed process {victim.pid} is in state D")
        if worker:
            until(lambda: state(victim.pid) == "Z", f"the leader of killed process {victim.pid} is a zombie")
        yield victim


@contextlib.contextmanager
def unkillable(size: int = 16 * MIB, *, worker: bool = False, within: Iterable[Cgroup] = ()) -> Generator[HangingVictim]:
    """The same before the kill: alive, waiting in a FUSE read (state S until SIGKILL, which then turns it into D)."""
    with hang_fs("READ") as fs, killed_after_abort(fs, size, within) as (child, victim):
        before = set(threads(victim.pid))
        child.order("read", path=fs.path, thread=worker)
        fs.wait_held("READ")
        tid = next(iter(set(threads(victim.pid)) - before)) if worker else victim.pid
        yield HangingVictim(victim.pid, victim.size_bytes, victim.pidfd, tid, fs)


@contextlib.contextmanager
def killed_after_abort(fs: HangFs, size: int, within: Iterable[Cgroup] = ()) -> Generator[tuple[Child, Victim]]:
    """A victim that is killed at the end; the connection is aborted then, because the victim cannot end before it."""
    with holding(size, within=within) as (child, victim, _):
        try:
            yield child, victim
        finally:
            victim.kill()
            fs.let_go()


@contextlib.contextmanager
def past_exit_mm(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[HangingVictim]:
    """A killed victim past exit_mm, held at closing its files (FUSE FLUSH): not exited, statm 0, its memory freed."""
    with hang_fs("FLUSH") as fs, killed_after_abort(fs, size, within) as (child, victim):
        child.ask("open_file", path=fs.path)
        victim.kill()
        fs.wait_held("FLUSH")
        yield HangingVictim(victim.pid, victim.size_bytes, victim.pidfd, victim.pid, fs)


@contextlib.contextmanager
def inside_exit_mm(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[HangingVictim]:
    """A killed victim inside exit_mm, where exit_aio() waits for an asynchronous FUSE read: statm 0, its memory still allocated.

    What a starved victim is for seconds, this one is until it is let go: process_mrelease(2) answers ESRCH and nothing is freed.
    """
    with hang_fs("READ") as fs, killed_after_abort(fs, size, within) as (child, victim):
        child.ask("aio", path=fs.path)
        fs.wait_held("READ")
        victim.kill()
        until(lambda: statm_resident(victim.pid) == 0, f"killed process {victim.pid} enters exit_mm")
        yield HangingVictim(victim.pid, victim.size_bytes, victim.pidfd, victim.pid, fs)


@contextlib.contextmanager
def mmap_locked(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[HangingVictim]:
    """A live victim, one thread of which sleeps with mmap_lock held for writing: process_mrelease(2) on it blocks once it is killed.

    `tid` is that thread, in state D.
    """
    with hang_fs("READ") as fs, killed_after_abort(fs, size, within) as (child, victim):
        child.order("lock_mmap", path=fs.path)
        fs.wait_held("READ")
        tid = int(child.ask("go on")["tid"])
        until(lambda: state(victim.pid, tid) == "D", f"thread {tid} of process {victim.pid} sleeps in mmap(2)")
        yield HangingVictim(victim.pid, victim.size_bytes, victim.pidfd, tid, fs)


@dataclass(frozen=True, slots=True)
class PinnedVictim(Victim):
    """A victim whose address space another process has pinned."""

    pinner: Victim


@contextlib.contextmanager
def pinned(size: int = 16 * MIB, *, within: Iterable[Cgroup] = (), through_proc: bool = False) -> Generator[PinnedVictim]:
    """A live victim pinned by a process that sleeps in process_vm_readv(2), or in a read of /proc/PID/mem.

    It can exit, even be reaped, and its memory stays; killing the pinner frees it.
    """
    need_root("handling the kernel's own page faults with userfaultfd(2)")
    with holding(size, within=within) as (_, victim, facts), holding(0) as (child, pinner, _):
        child.order("pin", pid=victim.pid, address=facts["address"], through_proc=through_proc)
        child.hear("the victim's address space is pinned")
        yield PinnedVictim(victim.pid, victim.size_bytes, victim.pidfd, pinner)
