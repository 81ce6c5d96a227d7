"""Evacuation: victims are moved out of what starves them into a leaf of ours with the highest CPU weight, before they are killed.

Lifts no neighbour and needs no restoring. In v2 a process leaves every other control of its cgroup too (memory and device limits, network
filters): there the leaf is frozen, so that it does nothing before it dies or is put back; SIGKILL ends it all the same.

After the kill a move is a race: a ``cgroup.procs`` write for a process that is exiting returns 0 and moves nothing, so each is verified.
One move waits for a grace period of RCU (8 to 32 ms); a thousand back to back take little more.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mrelease_agent.boosting.leaf import Leaf, folder_path
from mrelease_agent.linux import procfs
from mrelease_agent.linux.budget import Budget
from mrelease_agent.linux.cgroup_tree import Tree, read
from mrelease_agent.linux.process import ProcessRef


def _nothing() -> None:
    pass


def _ignore(_error: OSError) -> None:
    pass


class Evacuation:
    """Processes that were moved: ``moved``, by pid. close() from a thread: it waits as long as a move does."""

    def __init__(self, leaves: Sequence[Leaf], moved: frozenset[int], on_close: Callable[[], None]) -> None:
        self.moved = moved
        self._leaves = list(leaves)
        self._on_close = on_close
        self._lock = threading.Lock()

    def strays(self) -> list[int]:
        """Processes that are in the leaves now: the moved that have not exited, and on v1 children that they forked there."""
        if not self._lock.acquire(blocking=False):  # close() is at work: what is still there will be back where it belongs
            return []
        try:
            return sorted({pid for leaf in self._leaves for pid in leaf.pids()})
        finally:
            self._lock.release()

    def close(self) -> bool:
        """Put back who lives and is not dying, and remove the leaves; False while somebody is still dying in one: then call it again."""
        with self._lock:
            for leaf in self._leaves:
                leaf.put_back()
            self._leaves = [leaf for leaf in self._leaves if not leaf.remove()]
            done = not self._leaves
        self._on_close()
        return done


@dataclass(slots=True)
class _Origin:
    """What is known of a cgroup from which processes are moved; ``leaf`` is None where none of its processes is to be moved."""

    leaf: Leaf | None


@dataclass(slots=True)
class _Mover:
    """Moves processes of any origin in one hierarchy."""

    tree: Tree
    wanted: Callable[[Tree, str], bool]
    refused: Callable[[OSError], None] = _ignore
    origins: dict[str, _Origin] = field(default_factory=dict[str, _Origin])

    def move(self, ref: ProcessRef, table: bytes) -> bool:
        """Write a process into a leaf where that is wanted; whether it was. ``table``: its /proc/PID/cgroup."""
        path = self.tree.path_in(table)
        if path is None or path.startswith(folder_path(self.tree) + "/"):  # the latter: another operation moved it
            return False
        origin = self.origins.get(path)
        if origin is None:
            origin = self.origins[path] = _Origin(self._make(path))
        if origin.leaf is None:
            return False
        try:
            origin.leaf.add(ref.pid)
        except OSError as error:
            self.refused(error)
            return False
        return True

    def holds(self, table: bytes) -> bool:
        """Whether a process is in a leaf of this evacuation."""
        path = self.tree.path_in(table)
        return any(leaf.path == path for leaf in self.leaves)

    @property
    def leaves(self) -> list[Leaf]:
        return [origin.leaf for origin in self.origins.values() if origin.leaf is not None]

    def _make(self, path: str) -> Leaf | None:
        try:
            return Leaf.make(self.tree, path) if self.wanted(self.tree, path) else None
        except OSError as error:
            self.refused(error)
            return None


def evacuate(
    cpu: Tree,
    cpuset: Tree | None,
    refs: Sequence[ProcessRef],
    budget: Budget,
    on_close: Callable[[], None] = _nothing,
    refused: Callable[[OSError], None] = _ignore,
) -> Evacuation | None:
    """Move processes in this order until the budget is spent; None where none was seen in a leaf. The kernel may block each move once.

    ``on_close`` is called after each Evacuation.close(), ``refused`` with what the kernel refused in the hierarchy of the weights.
    """
    movers = [_Mover(cpu, _may_leave, refused)]
    if cpuset is not None:
        movers.append(_Mover(cpuset, _is_confined))
    return _move_all(movers, refs, budget, on_close, _held)


def thaw(freezer: Tree, refs: Sequence[ProcessRef], budget: Budget, on_close: Callable[[], None]) -> Evacuation | None:
    """Move processes that are dying out of frozen cgroups of v1, which keep them in state D for ever; None where none could be moved.

    Never one that lives: it would run on.
    """
    dying = [ref for ref in refs if procfs.dying(ref.proc)]
    # Not looked for afterwards: who is let go may have exited, and who is exiting already is not frozen.
    return _move_all([_Mover(freezer, is_frozen)], dying, budget, on_close, lambda _mover, written: {ref.pid for ref in written})


def is_frozen(freezer: Tree, path: str) -> bool:
    """Whether a cgroup of the v1 freezer is frozen, by itself or by one above it."""
    return _read(freezer, path, "freezer.state") in (b"FROZEN", b"FREEZING")


def _move_all(
    movers: Sequence[_Mover],
    refs: Sequence[ProcessRef],
    budget: Budget,
    on_close: Callable[[], None],
    verified: Callable[[_Mover, Sequence[ProcessRef]], set[int]],
) -> Evacuation | None:
    written: list[ProcessRef] = []
    try:
        for number, ref in enumerate(refs):
            if number and budget.spent:
                break
            with contextlib.suppress(procfs.ProcessGoneError, OSError):
                table = procfs.read(ref.proc, "cgroup")
                wrote = [mover.move(ref, table) for mover in movers]
                if wrote[0]:
                    written.append(ref)
        moved = verified(movers[0], written)
    except BaseException:
        Evacuation(_leaves(movers), frozenset(), on_close).close()
        raise
    evacuation = Evacuation(_leaves(movers), frozenset(moved), on_close)
    if moved:
        return evacuation
    evacuation.close()
    return None


def _leaves(movers: Sequence[_Mover]) -> list[Leaf]:
    return [leaf for mover in movers for leaf in mover.leaves]


def _held(mover: _Mover, refs: Sequence[ProcessRef]) -> set[int]:
    """Who of these is seen in a leaf."""
    listed = {pid for leaf in mover.leaves for pid in leaf.pids()}
    return {ref.pid for ref in refs if (ref.pid in listed and _is_unreaped(ref)) or _has_thread_in(mover, ref)}


def _is_unreaped(ref: ProcessRef) -> bool:
    """As long as it is, no other process can have its pid."""
    try:
        os.stat("stat", dir_fd=ref.proc)
    except OSError:
        return False
    return True


def _has_thread_in(mover: _Mover, ref: ProcessRef) -> bool:
    """Whether another thread is in a leaf: a main thread that has exited stays where it was, and the leaf does not list the process."""
    tid = next((tid for tid in procfs.thread_ids(ref.proc) if tid != ref.pid), None)
    if tid is None:
        return False
    try:
        return mover.holds(procfs.read(ref.proc, f"task/{tid}/cgroup"))
    except procfs.ProcessGoneError:
        return False


def _may_leave(tree: Tree, path: str) -> bool:
    """Not where v2 keeps threads of one process in several cgroups: they could not all be put back."""
    return tree.version == 1 or _read(tree, path, "cgroup.type") in (b"domain", b"")


def _is_confined(tree: Tree, path: str) -> bool:
    """Whether a cpuset of v1 leaves out CPUs."""
    return path != tree.top and _read(tree, path, "cpuset.cpus") != _read(tree, tree.top, "cpuset.cpus")


def _read(tree: Tree, path: str, name: str) -> bytes:
    fd = tree.open(path)
    try:
        return read(fd, name).strip()
    finally:
        os.close(fd)
