"""Directories of the bench, named by its process id, so that the next one can remove what a killed one has left."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mrelease.demo.interrupts import uninterrupted

_PREFIX = "mrelease-bench-"
#: The path of a socket in it must fit into 107 bytes, unix(7).
_LONGEST = 50


@contextmanager
def scratch() -> Generator[Path, None, None]:
    """A directory, mode 0700, for as long as the context lasts."""
    folder: Path | None = None
    try:
        with uninterrupted():
            folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_base()))
        yield folder
    finally:
        if folder is not None:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch() -> list[str]:
    """Remove directories of benches that are no more; return their names."""
    found: list[str] = []
    for folder in _base().glob(f"{_PREFIX}*"):
        owner = re.match(rf"{_PREFIX}(\d+)-", folder.name)
        if owner is not None and not Path(f"/proc/{owner[1]}").exists() and folder.stat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)
            found.append(str(folder))
    return found


def _base() -> Path:
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= _LONGEST else "/tmp")
