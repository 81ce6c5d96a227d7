"""Lift: the CPU weight of the cgroup of a victim and of every one above it is raised until the victim has exited, then restored.

For where a victim could not be moved before the kill. It lifts the neighbours in those cgroups too. Lifting the victim's own cgroup alone
is useless: those above starve it. Weights that are lifted are counted: operations under one ancestor restore it once, when the last ends.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mrelease_agent.boosting.journal import Entry, File, Journal
from mrelease_agent.boosting.leaf import folder_path
from mrelease_agent.boosting.weights import HIGHEST, Restored, lifted_value, restore, value_of
from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree, write
from mrelease_agent.linux.process import ProcessRef


@dataclass(slots=True)
class _Lifted:
    """A lifted cgroup: by how many operations, and what was written, by file."""

    users: int = 0
    entries: dict[str, tuple[int, Entry]] = field(default_factory=dict[str, tuple[int, Entry]])


class Lift:
    """One operation's lift. ``cgroups``: canonical paths of what is lifted, also by others. close() restores; harmless when repeated."""

    def __init__(self, lifter: Lifter, keys: Sequence[tuple[str, int]]) -> None:
        self.cgroups = [path for path, _ in keys]
        self._lifter = lifter
        #: Paths and inode numbers of what is still lifted; for Lifter.
        self.keys = list(keys)

    def close(self) -> None:
        """Restore what no other operation needs any more."""
        self._lifter.release(self)


class Lifter:
    """Everything that this agent has lifted in one hierarchy. For any thread."""

    def __init__(self, tree: Tree, journal: Journal) -> None:
        self._tree = tree
        self._journal = journal
        self._lock = threading.Lock()
        self._lifted: dict[tuple[str, int], _Lifted] = {}

    def lift(self, refs: Iterable[ProcessRef]) -> Lift | None:
        """Lift every cgroup from those of the processes up to the top; None where there is none, or none that may be written.

        Raises JournalError: then nothing was written.
        """
        paths: set[str] = set()
        for ref in refs:
            with contextlib.suppress(procfs.ProcessGoneError, OSError):
                path = self._tree.path_of(ref.proc)
                while path is not None and path != self._tree.top and path != folder_path(self._tree):
                    paths.add(path)
                    path = path.rpartition("/")[0] or "/"
        keys: list[tuple[str, int]] = []
        with self._lock:
            try:
                for path in sorted(paths):
                    self._lift_one(path, keys)
                if any(self._lifted[key].entries for key in keys):
                    return Lift(self, keys)
            except BaseException:
                self._release(keys)
                raise
            self._release(keys)
        return None

    def release(self, lift: Lift) -> None:
        """Undo a lift; for Lift.close()."""
        with self._lock:
            self._release(lift.keys)
            lift.keys.clear()

    def _lift_one(self, path: str, keys: list[tuple[str, int]]) -> None:
        """Lift one cgroup and add its key to ``keys``. Raises JournalError."""
        try:
            fd = self._tree.open(path)
        except OSError:
            return
        try:
            key = (path, os.fstat(fd).st_ino)
            lifted = self._lifted.setdefault(key, _Lifted())
            lifted.users += 1
            keys.append(key)
            for file, highest in HIGHEST[self._tree.version]:
                with contextlib.suppress(OSError):
                    self._write_highest(fd, key, file, highest)
        finally:
            os.close(fd)

    def _write_highest(self, fd: int, key: tuple[str, int], file: File, highest: str) -> None:
        """Write the highest value where the file does not show it. Raises OSError, JournalError."""
        was = value_of(fd, file)
        now = lifted_value(file, highest, was)
        if now is None:
            return
        # Not lifted yet, or somebody has written it since: then that is what will be restored.
        entries = self._lifted[key].entries
        before = entries.pop(file, None)
        if before is not None:
            self._journal.end(before[0])
        entry = Entry(self._tree.version, *key, file, was, now)
        number = self._journal.begin(entry)
        try:
            write(fd, file, highest.encode("ascii"))
        except OSError:
            self._journal.end(number)
            raise
        entries[file] = number, entry

    def _release(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            lifted = self._lifted[key]
            lifted.users -= 1
            if lifted.users:
                continue
            del self._lifted[key]
            for file, _ in reversed(HIGHEST[self._tree.version]):
                if file in lifted.entries:
                    number, entry = lifted.entries[file]
                    if restore(self._tree, entry) is not Restored.FAILED:
                        self._journal.end(number)
