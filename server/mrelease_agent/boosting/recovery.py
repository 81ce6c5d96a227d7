"""What an agent that died left behind is put right by the next one: weights, living evacuees, leaves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from mrelease_agent.boosting.journal import Entry, Found, Journal, JournalError
from mrelease_agent.boosting.leaf import Leaf, open_folder
from mrelease_agent.boosting.weights import Restored, restore
from mrelease_agent.linux.cgroup_tree import Tree


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was found and done. False where nothing was found."""

    #: Control files that have their value from before the lift again.
    weights: int = 0
    #: Control files that somebody else had written since: left alone.
    changed: int = 0
    #: Control files that could not be written: the next start tries again.
    failed: int = 0
    #: Processes that were put back into the cgroup from which they were moved.
    processes: int = 0
    #: Leaves that were removed.
    leaves: int = 0
    #: Leaves in which somebody is still dying: removed later.
    busy_leaves: int = 0
    #: Lines of the journal that could not be read.
    corrupt_lines: int = 0
    #: Lines of the journal that a later version of the agent wrote: kept, for it knows what to restore.
    newer_lines: int = 0
    #: The journal was of another boot, and dropped.
    other_boot: bool = False

    def __bool__(self) -> bool:
        return self != Recovered()

    def __str__(self) -> str:
        counts = {
            "CPU weights restored": self.weights,
            "left as somebody else has written them since": self.changed,
            "not restored, to be tried again": self.failed,
            "processes put back": self.processes,
            "cgroups removed": self.leaves,
            "cgroups left to processes that are dying in them": self.busy_leaves,
            "unreadable lines of the journal": self.corrupt_lines,
            "lines of the journal of a later version, kept: start that version once, to restore what it has changed": self.newer_lines,
        }
        parts = [f"{what}: {count}" for what, count in counts.items() if count]
        if self.other_boot:
            parts.append("the journal of another boot was dropped")
        return "; ".join(parts) or "nothing was left behind"


def recover(journal: Journal | None, weighted: Tree | None, trees: Sequence[Tree]) -> tuple[Recovered, list[Leaf]]:
    """Restore what the journal has in ``weighted``, and empty and remove the leaves in ``trees``; the leaves that are still busy, too.

    Harmless when repeated. What living agents own is not touched.
    """
    found = Found((), 0, other_boot=False) if journal is None else journal.found
    results = [] if journal is None else _restore(journal, weighted)
    processes = removed = 0
    busy: list[Leaf] = []
    for tree in trees:
        for leaf in _abandoned(tree):
            processes += leaf.put_back()
            if leaf.remove():
                removed += 1
            else:
                busy.append(leaf)
    recovered = Recovered(
        weights=results.count(Restored.DONE),
        changed=results.count(Restored.CHANGED),
        failed=results.count(Restored.FAILED),
        processes=processes,
        leaves=removed,
        busy_leaves=len(busy),
        corrupt_lines=found.corrupt,
        newer_lines=found.newer,
        other_boot=found.other_boot,
    )
    return recovered, busy


def _restore(journal: Journal, tree: Tree | None) -> list[Restored]:
    found = journal.found
    results: list[Restored] = []
    failed: list[Entry] = []
    for entry in reversed(found.entries):  # as they were written, cpu.idle comes before the weight
        result = Restored.FAILED if tree is None or tree.version != entry.version else restore(tree, entry)
        results.append(result)
        if result is Restored.FAILED:
            failed.append(entry)
    if found != Found((), 0, other_boot=False):
        with contextlib.suppress(JournalError):
            journal.settle_found(failed[::-1])
    return results


def _abandoned(tree: Tree) -> list[Leaf]:
    leaves: list[Leaf] = []
    with contextlib.suppress(OSError):
        folder = open_folder(tree, make=False)
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        finally:
            os.close(folder)
        for name in sorted(names):
            with contextlib.suppress(OSError):
                leaf = Leaf.adopt(tree, name)
                if leaf is not None:
                    leaves.append(leaf)
    return leaves
