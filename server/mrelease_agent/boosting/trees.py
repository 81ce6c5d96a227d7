"""The cgroup hierarchies that boosting works in."""

from __future__ import annotations

from dataclasses import dataclass

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Tree


@dataclass(frozen=True, slots=True)
class Trees:
    """``cpu``: with the CPU weights, v1 or v2. ``cpuset``, ``freezer``: those of v1 alone; in v2 one move leaves both behind."""

    cpu: Tree | None
    cpuset: Tree | None = None
    freezer: Tree | None = None

    @classmethod
    def find(cls) -> Trees:
        """Those that are mounted."""
        cpu, cpuset, freezer = (cgroup_tree.tree(controller) for controller in ("cpu", "cpuset", "freezer"))
        return cls(cpu, _v1(cpuset), _v1(freezer))

    def all(self) -> list[Tree]:
        """Each that there is."""
        return [tree for tree in (self.cpu, self.cpuset, self.freezer) if tree is not None]


def _v1(tree: Tree | None) -> Tree | None:
    return tree if tree is not None and tree.version == 1 else None
