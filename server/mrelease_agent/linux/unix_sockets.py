"""Who listens on a Unix socket: from the kernel's own table and the descriptors of a process, without connecting to anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

from mrelease_agent.linux.procfs import ProcessGoneError

#: A process with more descriptors is not looked into to the end: each costs some 2 us.
MAX_DESCRIPTORS: Final = 65536
_SOCKET: Final = "socket:["


class TooManyDescriptorsError(Exception):
    """A process has more than MAX_DESCRIPTORS: what was to be found may be among those not seen."""


class Listening:
    """Listening sockets with certain paths, in whatever network namespace is asked.

    ``paths`` are absolute; one that ends in "/" stands for every socket directly below. ``/var/run`` and ``/run`` are one. A path is what
    was given to bind(2): in a mount namespace of his own every user can make one, so it is a claim, to be believed of root alone.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        wanted = "|".join(re.escape(path) + ("[^/\n]+" if path.endswith("/") else "") for path in sorted(map(_short, paths)))
        # Num RefCount Protocol Flags Type St Inode Path of proc_net_unix(5); 00010000 is __SO_ACCEPTCON.
        self._line = re.compile(rf"^\S+ \S+ \S+ 00010000 \S+ \S+ +(\d+) ((?:/var(?=/run/))?(?:{wanted}))$".encode(), re.MULTILINE)

    def inodes(self, proc: int) -> dict[int, str]:
        """Inode and path of each in the network namespace of a process, given a directory fd of procfs.open_process().

        Raises ProcessGoneError; OSError.
        """
        return self.parse(_read_all(proc, "net/unix"))

    def parse(self, table: bytes) -> dict[int, str]:
        """Those in a ``/proc/net/unix``.

        The kernel writes paths as they are, line breaks too: whoever binds one can add lines, and so claim any inode for any path. No line
        can be taken away.
        """
        found = self._line.finditer(table)
        return {int(match[1]): _short(os.fsdecode(match[2])) for match in found}


def sockets(proc: int) -> set[int]:
    """Inodes of the sockets that a process has open. Raises ProcessGoneError; PermissionError; TooManyDescriptorsError."""
    found: set[int] = set()
    try:
        folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        try:
            names = os.listdir(folder)
            if len(names) > MAX_DESCRIPTORS:
                raise TooManyDescriptorsError
            for name in names:
                try:
                    target = os.readlink(name, dir_fd=folder)
                except FileNotFoundError:  # closed meanwhile
                    continue
                if target.startswith(_SOCKET):
                    found.add(int(target[len(_SOCKET) : -1]))
        finally:
            os.close(folder)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError from None
    return found


def _short(path: str) -> str:
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _read_all(proc: int, name: str) -> bytes:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError from None
    with open(fd, "rb", buffering=0) as file:
        return file.read()
