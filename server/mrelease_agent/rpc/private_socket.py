"""gRPC's own Unix socket behind the relay: nobody else can connect to it, for there is no path to it.

It is made in a directory of mode 0700 and its name is removed as soon as gRPC listens. The relay connects through a descriptor of its
inode, proc_pid_fd(5); another process would need this one's descriptors for that, and with them it would be this agent anyway.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mrelease_agent.rpc.socket_directory import ListenError, make_private_directory

_NAME: Final = "grpc.sock"


class PrivateSocket:
    """Give ``grpc_address`` to gRPC, call ``hide`` when it listens, and connect to ``target``."""

    def __init__(self, folder: Path, directory: int) -> None:
        self._folder = folder
        self._directory = directory
        self._socket = -1

    @property
    def grpc_address(self) -> str:
        """Through a descriptor of the directory: a path of a socket has 107 bytes, and that of the public one may have them all."""
        return f"unix:/proc/self/fd/{self._directory}/{_NAME}"

    @property
    def target(self) -> str:
        """What connect(2) takes, in this process alone."""
        return f"/proc/self/fd/{self._socket}"

    def hide(self) -> None:
        """Remove the name of the socket, and its directory. Raises OSError where gRPC made none."""
        self._socket = os.open(_NAME, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        os.unlink(_NAME, dir_fd=self._directory)
        self._folder.rmdir()

    @classmethod
    @contextmanager
    def beside(cls, path: str) -> Generator[PrivateSocket, None, None]:
        """A place beside the public socket, whose lock is held: what a dead agent left of its own is removed. Raises ListenError."""
        folder = Path(f"{path}.private")
        make_private_directory(folder)
        try:
            (folder / _NAME).unlink(missing_ok=True)
            directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise ListenError(f"cannot use the directory {folder} for gRPC's own socket: {error.strerror}; remove it") from error
        place = cls(folder, directory)
        try:
            yield place
        finally:
            os.close(directory)
            if place._socket >= 0:
                os.close(place._socket)
            else:
                with suppress(OSError):
                    (folder / _NAME).unlink(missing_ok=True)
                    folder.rmdir()
