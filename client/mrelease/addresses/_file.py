"""The inventory: a file of the user's own that says where the agents of which nodes are.

``$MRELEASE_INVENTORY``, else ``mrelease/inventory.yaml`` in ``$XDG_CONFIG_HOME``, else in ``~/.config``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mrelease import _contexts
from mrelease.addresses._given import address, credentials
from mrelease.addresses._inventory import Entry, decode
from mrelease.errors import InvalidInventory, NoAgent
from mrelease.resolvers._placement import Agent

#: The environment variable.
VARIABLE: Final = "MRELEASE_INVENTORY"


def path(environment: Mapping[str, str] = os.environ) -> Path:
    """The inventory, whether or not it is there."""
    if named := environment.get(VARIABLE):
        return Path(named)
    return _contexts.path({**environment, _contexts.FILE_VARIABLE: ""}).with_name("inventory.yaml")


def load(file: Path) -> dict[str, Entry] | None:
    """What it says, by nodes in its order; None: it is not there. Raises InvalidInventory."""
    try:
        raw = _contexts.read_own(file, VARIABLE)
    except _contexts.ContextError as error:
        raise InvalidInventory(str(error), f"or name another one: {VARIABLE}") from None
    return None if raw is None else decode(raw, file)


class InventoryFile:
    """The inventory. It is read again when it has changed."""

    is_quick = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: tuple[Path, tuple[int, int, int, int], dict[str, Entry]] | None = None

    def find(self, node: str, deadline: float) -> Agent:
        """See ``Finder``."""
        del deadline
        file = path()
        entries = self._entries(file)
        if entries is None:
            raise NoAgent(f"there is no {file}")
        entry = entries.get(node)
        if entry is None:
            raise NoAgent(f"{file} does not name it")
        where = address(entry.address, node, f"{file}: node {node}")
        if where.startswith("unix:"):
            return Agent(where, None, entry.name)
        tls = credentials(entry.context)
        if entry.server_name and tls is None:
            raise InvalidInventory(f"{file}: node {node} has a server_name and no certificates", "give its group a context")
        return Agent(where, entry.with_name(tls), entry.name)

    def check(self) -> None:
        """Read it. Raises NoAgent where it is not there, InvalidInventory."""
        if self._entries(file := path()) is None:
            raise NoAgent(f"there is no {file}")

    def close(self) -> None:
        """Holds nothing."""

    def _entries(self, file: Path) -> dict[str, Entry] | None:
        try:
            found = file.stat()
            stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        except OSError:
            return load(file)  # which says what is wrong with it
        with self._lock:
            if self._known is None or self._known[:2] != (file, stamp):
                entries = load(file)
                if entries is None:
                    return None
                self._known = (file, stamp, entries)
            return self._known[2]
