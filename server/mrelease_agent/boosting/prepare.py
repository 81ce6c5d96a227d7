"""``python -m mrelease_agent.boosting.prepare``: make the folder of all leaves at the top of each hierarchy, and end.

The top of a hierarchy may be written by root with CAP_DAC_OVERRIDE alone, and the agent does without that for as long as it serves: an init
container, or ExecStartPre= of systemd, has it for a moment.
"""

from __future__ import annotations

import os
import sys

from mrelease_agent.boosting.leaf import open_folder
from mrelease_agent.boosting.trees import Trees
from mrelease_agent.linux.cgroup_tree import Tree


def main() -> None:
    """Make the folders. Where one cannot be made it says why and does not fail: the agent then does without evacuation, and tells so."""
    for tree in Trees.find().all():
        _make(tree)


def _make(tree: Tree) -> None:
    try:
        os.close(open_folder(tree, make=True))
    except OSError as error:
        print(f"mrelease.boost cannot be made in {tree.mount.path}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    main()
