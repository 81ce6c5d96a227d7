"""Holding a process at its exit: killed, but before it gives up its address space (PTRACE_O_TRACEEXIT)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from .cgroups import Cgroup
from .child import MIB, Victim
from .kernel import PATIENCE, Unavailable, libc
from .readers import state, threads
from .states import live

PTRACE_CONT, PTRACE_DETACH, PTRACE_SEIZE, PTRACE_LISTEN = 7, 17, 0x4206, 0x4208
PTRACE_O_TRACEEXIT, PTRACE_EVENT_EXIT = 0x40, 6
WALL = 0x40000000


def _ptrace(request: int, tid: int, data: int = 0) -> None:
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(tid), None, ctypes.c_void_p(data)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class ExitHold:
    """Holds every thread of one child of this process at its exit. ptrace(2) obeys only the thread that attached: hence a thread."""

    def __init__(self, pid: int) -> None:
        self._pid, self._tids = pid, list[int]()
        self._seized, self._held, self._go = threading.Event(), threading.Event(), threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._trace, name=f"tracer of {pid}", daemon=True)
        self._thread.start()
        self._seized.wait()
        if self._error is not None:
            raise Unavailable(f"PTRACE_SEIZE: {self._error}")

    def _trace(self) -> None:
        self._tids = [tid for tid in threads(self._pid) if self._seize(tid)]
        self._seized.set()
        for tid in self._tids:
            self._follow(tid)
        self._held.set()
        self._go.wait()
        for tid in self._tids:
            with contextlib.suppress(ProcessLookupError):
                _ptrace(PTRACE_DETACH, tid)

    def _seize(self, tid: int) -> bool:
        # A thread that has exited, such as a zombie leader, cannot be attached to and need not be.
        try:
            _ptrace(PTRACE_SEIZE, tid, PTRACE_O_TRACEEXIT)
        except OSError as error:
            if state(self._pid, tid) not in {"Z", "X", ""}:
                self._error = error
            return False
        return True

    def _follow(self, tid: int) -> None:
        # Passes every signal on, and leaves a stopped process stopped, until the thread stops at its exit.
        while True:
            try:
                _, status = os.waitpid(tid, WALL)
            except ChildProcessError:
                return
            event, number = status >> 16, os.WSTOPSIG(status)
            if not os.WIFSTOPPED(status) or event == PTRACE_EVENT_EXIT:
                return
            # SIGKILL may have woken it meanwhile: the next wait tells.
            with contextlib.suppress(ProcessLookupError):
                if event and number != signal.SIGTRAP:
                    _ptrace(PTRACE_LISTEN, tid)
                else:
                    _ptrace(PTRACE_CONT, tid, 0 if event else number)

    def wait_held(self, seconds: float = PATIENCE) -> None:
        """Waits until every thread stands at its exit: somebody must have killed the process. Raises TimeoutError."""
        if not self._held.wait(seconds):
            raise TimeoutError(f"waited {seconds:g} s for {self._thread.name}: every thread at its exit")

    def let_go(self) -> None:
        """Lets the process exit."""
        self._go.set()
        self._thread.join(PATIENCE)


@contextlib.contextmanager
def hold_at_exit(victim: Victim) -> Generator[ExitHold]:
    """Makes `victim`, a child of this process, stop at its exit when it is killed; at the end it is killed and let go."""
    hold = ExitHold(victim.pid)
    try:
        yield hold
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(victim.pidfd, signal.SIGKILL)
        hold.let_go()


@dataclass(frozen=True, slots=True)
class HeldVictim(Victim):
    """A killed victim which cannot go on dying before `hold.let_go()`."""

    hold: ExitHold


@contextlib.contextmanager
def held_at_exit(size: int = 16 * MIB, *, within: Iterable[Cgroup] = ()) -> Generator[HeldVictim]:
    """A victim that was killed and stands before exit_mm: its memory is there and process_mrelease(2) can take it."""
    with live(size, within=within) as victim, hold_at_exit(victim) as hold:
        victim.kill()
        hold.wait_held()
        yield HeldVictim(victim.pid, victim.size_bytes, victim.pidfd, hold)
