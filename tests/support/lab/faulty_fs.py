"""A file system in memory whose disk can be told to fail, or not to answer."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from .child import Child, started
from .kernel import Unavailable, need_root


@dataclass(frozen=True, slots=True)
class FaultyFs:
    """The mounted file system: ``path`` is its one directory (mode 0700, root's), as other processes reach it."""

    server: Child
    path: Path

    def fault(self, **faults: str | int | None) -> None:
        """What happens from now on to requests, by their name (FSYNC, WRITE, ...): "hold", an errno, or None for the normal answer."""
        self.server.order("faults", faults=faults)
        while "done" not in self.server.hear("the file system takes its faults"):
            pass

    def wait_held(self, request: str) -> None:
        """Wait until a request of that name is being held."""
        while self.server.hear(f"a held {request}").get("request") != request:
            pass


@contextlib.contextmanager
def faulty_fs() -> Generator[FaultyFs]:
    """Mount one; no process elsewhere sees the mount. Root only."""
    need_root("mounting FUSE")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Unavailable("no usable /dev/fuse")
    with tempfile.TemporaryDirectory(prefix="mrelease-lab-") as target, started("faulty_fs_server.py", target=target) as server:
        try:
            server.hear("FUSE mounted")
        except Unavailable as refused:
            raise Unavailable(f"mounting FUSE: {refused}") from None
        yield FaultyFs(server, Path(f"/proc/{server.pid}/root{target}"))
