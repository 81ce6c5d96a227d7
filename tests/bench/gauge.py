"""How much memory a victim holds, told by the kernel and not by who killed it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


class Charge:
    """What is charged to the victim's memory cgroup: it falls when pages are really given back, wherever the victim is by then."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.method = f"the charge of the victim's memory cgroup ({' + '.join(file.name for file in files)})"
        self._fds = [os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in files]

    def read(self) -> list[int]:
        """Read it, for the one victim."""
        return [sum(int(os.pread(fd, 32, 0)) for fd in self._fds)]

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
