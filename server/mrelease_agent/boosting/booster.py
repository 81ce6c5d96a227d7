"""Booster: gives victims CPU time so that they free themselves too. The ladder's rungs, as one thing that an agent has once.

docs/explanation/boost.md has what was measured. All that may block is for a thread; needed(), realtime(), frozen() and prioritise() take
microseconds. Nothing here raises but for the limits of the agent's process: a boost that does not come off is none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mrelease_agent.boosting import busy, evacuation, priority, recovery
from mrelease_agent.boosting.evacuation import Evacuation
from mrelease_agent.boosting.journal import Journal, JournalError
from mrelease_agent.boosting.leaf import Leaf, remove_folder
from mrelease_agent.boosting.lifting import Lift, Lifter
from mrelease_agent.boosting.probing import Probed, probe
from mrelease_agent.boosting.recovery import Recovered
from mrelease_agent.boosting.trees import Trees
from mrelease_agent.linux import procfs
from mrelease_agent.linux.budget import Budget
from mrelease_agent.linux.capabilities import Capability
from mrelease_agent.linux.node import kernel_version
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.scheduling import Raised

#: Bytes of memory below which a move takes longer than reaping: 8 ms, at some 10 GiB/s.
WORTH_MOVING: Final = 64 << 20


class Booster:
    """The ladder on this node. ``state_dir`` is where the journal of lifts lives; without it there are no lifts.

    recover() is called once at the start, before anything else; close() when nothing is boosted any more.
    """

    def __init__(self, state_dir: Path | None, trees: Trees | None = None) -> None:
        self._trees = trees or Trees.find()
        self._cpus = frozenset(os.sched_getaffinity(os.getpid()))
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._journal: Journal | None = None
        self._journal_trouble = "no directory for it is configured"
        if state_dir is not None:
            try:
                self._journal, self._journal_trouble = Journal(state_dir), ""
            except JournalError as trouble:
                self._journal_trouble = str(trouble)
        self._lifter = Lifter(self._trees.cpu, self._journal) if self._trees.cpu is not None and self._journal is not None else None
        self._probed: Probed | None = None
        self._busy: list[Leaf] = []
        self._lock = threading.Lock()

    def features(self) -> tuple[Capability, ...]:
        """Which rungs work here and why not the others. The first call tries them out: it forks, and takes 10 to 40 ms."""
        probed = self._tried()
        return probed.priority, probed.evacuation, probed.lift

    def has(self, rung: int) -> bool:
        """Whether a rung works here, by its number in the contract's Boost."""
        probed = self._tried()
        return {2: probed.priority, 3: probed.evacuation, 4: probed.lift}[rung].available

    def needed(self, *refs: ProcessRef) -> bool:
        """Whether the victims, the biggest first, would have to wait for CPU time: they should be boosted."""
        with contextlib.suppress(OSError):
            if busy.contended(refs, self._loadavg):
                return True
            # Since Linux 6.18 no limit throttles a thread in the kernel.
            if refs and self._trees.cpu is not None and kernel_version() < (6, 18):
                return busy.throttled(refs[0], self._trees.cpu, _size(refs, 1 << 62))
        return False

    def realtime(self, ref: ProcessRef) -> bool:
        """Whether prioritise() gives it real time: then no other rung is any better."""
        probed = self._tried()
        if probed.realtime or not probed.realtime_at_top or self._trees.cpu is None:
            return probed.realtime
        with contextlib.suppress(procfs.ProcessGoneError, OSError):
            return self._trees.cpu.path_of(ref.proc) == self._trees.cpu.top
        return False

    def prioritise(self, ref: ProcessRef) -> Raised:
        """Raise every thread of a process that has been sent SIGKILL; falsy where that is not permitted. 10 to 20 us a thread."""
        return priority.prioritise(ref, self._cpus)

    def evacuate(self, refs: Sequence[ProcessRef], seconds: float, worth: int = WORTH_MOVING) -> Evacuation | None:
        """Move processes, in this order, before they are killed; None where none could be moved, or all have less than ``worth`` bytes.

        No move is begun after ``seconds``; the kernel can block the one that has begun. Children that they fork are in the leaf too. Who is
        not killed goes back by Evacuation.close(), or after a crash by the next agent's recover().
        """
        if self._trees.cpu is None or _size(refs, worth) < worth:
            return None
        return evacuation.evacuate(self._trees.cpu, self._trees.cpuset, refs, Budget(seconds), self._sweep)

    def frozen(self, ref: ProcessRef) -> bool:
        """Whether a v1 freezer holds it: then SIGKILL does not end it, but thaw() after the kill does. Some 50 us."""
        freezer = self._trees.freezer
        if freezer is None:
            return False
        with contextlib.suppress(procfs.ProcessGoneError, OSError):
            path = freezer.path_of(ref.proc)
            return path is not None and path != freezer.top and evacuation.is_frozen(freezer, path)
        return False

    def thaw(self, refs: Sequence[ProcessRef], seconds: float) -> Evacuation | None:
        """Move processes that have been sent SIGKILL out of frozen cgroups of v1; None where none could be moved. For a thread."""
        if self._trees.freezer is None:
            return None
        return evacuation.thaw(self._trees.freezer, refs, Budget(seconds), self._sweep)

    def lift(self, refs: Sequence[ProcessRef]) -> Lift | None:
        """Lift the CPU weights of the cgroups of these processes and of all above, until Lift.close(); None where nothing was lifted."""
        if self._lifter is None:
            return None
        try:
            return self._lifter.lift(refs)
        except JournalError:
            return None

    def recover(self) -> Recovered:
        """Restore weights, put living evacuees back and remove leaves that a dead agent left; harmless when repeated."""
        recovered, still_busy = recovery.recover(self._journal, self._trees.cpu, self._trees.all())
        with self._lock:
            self._busy += still_busy
        return recovered

    def close(self) -> None:
        """Remove what is empty and let go of the rest, which the next agent removes."""
        self._sweep()
        with self._lock:
            for leaf in self._busy:
                leaf.abandon()
            self._busy.clear()
        for tree in self._trees.all():
            remove_folder(tree)
        if self._journal is not None:
            self._journal.close()
        fd, self._loadavg = self._loadavg, -1
        if fd >= 0:
            os.close(fd)

    def _tried(self) -> Probed:
        with self._lock:
            if self._probed is None:
                self._probed = probe(self._trees, self._journal_trouble)
            return self._probed

    def _sweep(self) -> None:
        """Remove leaves of dead agents in which somebody was still dying."""
        with self._lock:
            self._busy = [leaf for leaf in self._busy if not leaf.remove()]


def _size(refs: Sequence[ProcessRef], enough: int) -> int:
    """Bytes that releasing them gives back, as far as they are needed to know that it is enough."""
    total = 0
    for ref in refs:
        if total >= enough:
            break
        with contextlib.suppress(OSError):
            memory = ref.memory()
            total += memory.reclaimable if memory else 0
    return total
