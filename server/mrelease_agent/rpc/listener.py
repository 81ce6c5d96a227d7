"""Prepare the place where the agent listens, so that nobody else can reach it and no other agent loses it.

gRPC alone would replace a living agent's Unix socket without a word, and share a TCP port with it (SO_REUSEPORT).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mrelease_agent.address import AddressError, TcpAddress, UnixAddress, parse

#: A second server on the same port is an error, not a silent partner that gets half of the calls.
CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (("grpc.so_reuseport", 0),)


class ListenError(Exception):
    """The agent cannot listen there; the message says why and what to do."""


class Endpoint:
    """A prepared place: give ``grpc_address`` and ``channel_options`` to gRPC, then call ``bound``."""

    def __init__(self, address: UnixAddress | TcpAddress) -> None:
        self._address = address
        self._inode: tuple[int, int] | None = None
        self.channel_options: tuple[tuple[str, int], ...] = CHANNEL_OPTIONS

    @property
    def grpc_address(self) -> str:
        """What ``add_insecure_port`` takes: ``unix:/path`` (percent-encoded, as gRPC decodes it) or ``127.0.0.1:port``."""
        return f"unix:{quote(self._address.path)}" if isinstance(self._address, UnixAddress) else str(self._address)

    @property
    def listen(self) -> str:
        """The address as configuration and callers write it; after ``bound`` with the port that the kernel chose."""
        return f"unix://{self._address.path}" if isinstance(self._address, UnixAddress) else f"tcp://{self._address}"

    @property
    def path(self) -> Path | None:
        """The Unix socket; None for TCP."""
        return Path(self._address.path) if isinstance(self._address, UnixAddress) else None

    def bound(self, port: int = 0) -> None:
        """Take note that gRPC listens now: ``port`` is what ``add_insecure_port`` returned. Makes a Unix socket 0600.

        Raises ListenError where gRPC left no socket at the path.
        """
        if isinstance(self._address, TcpAddress):
            self._address = TcpAddress(self._address.host, port or self._address.port)
            return
        path = self._address.path
        try:
            Path(path).chmod(0o600)
            found = os.lstat(path)
        except OSError as error:
            raise ListenError(f"cannot make the socket {path} private: {error.strerror}") from error
        self._inode = (found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Remove the socket, if it is still the one that ``bound`` saw; gRPC may have done so already."""
        if self._inode is None or not isinstance(self._address, UnixAddress):
            return
        with suppress(FileNotFoundError):
            found = os.lstat(self._address.path)
            if (found.st_dev, found.st_ino) == self._inode:
                Path(self._address.path).unlink()


@contextmanager
def prepare(listen: str) -> Generator[Endpoint, None, None]:
    """Make it safe to listen on ``listen`` (see ``address.parse``) for as long as the context lasts.

    Unix: the directory exists, is the agent's own and closed to everyone else; a lock beside the socket is held, so that of two agents
    that start at once one fails; what a dead agent left is removed. TCP: the port is free.

    Raises ListenError, before anything was changed at the path of the socket.
    """
    try:
        address = parse(listen)
    except AddressError as error:
        raise ListenError(f"cannot listen on {listen!r}: it {error}") from error
    if isinstance(address, TcpAddress):
        _check_port(address)
        yield Endpoint(address)
        return
    make_private_directory(Path(address.path).parent)
    lock = _lock(address.path)
    try:
        _clear(address.path)
        endpoint = Endpoint(address)
        try:
            yield endpoint
        finally:
            endpoint.remove()
    finally:
        # The lock file stays: removing it would let one agent lock the old file and another one a new file of the same name.
        os.close(lock)


def _check_port(address: TcpAddress) -> None:
    # gRPC reports a failed bind as "Failed to bind to address" without the errno.
    with socket.socket(address.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)  # with SO_REUSEADDR two sockets may bind one port; only one may listen
        except OSError as error:
            remedies = {errno.EADDRINUSE: "stop what listens there or choose another port", errno.EACCES: "choose a port above 1023"}
            remedy = remedies.get(error.errno or 0, "choose another address")
            raise ListenError(f"cannot listen on tcp://{address}: {error.strerror}; {remedy}") from error


def make_private_directory(directory: Path) -> None:
    """Make a directory of mode 0700, or check that it is one of the agent's own. Raises ListenError, which says what to do."""
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        found = directory.lstat()
    except OSError as error:
        raise ListenError(f"cannot make the directory {directory} for the agent's socket: {error.strerror}") from error
    if stat.S_ISLNK(found.st_mode):
        raise ListenError(f"{directory} is a symbolic link: name the directory itself in `listen`")
    if not stat.S_ISDIR(found.st_mode):
        raise ListenError(f"{directory} is not a directory: choose another path for `listen`")
    if found.st_uid != os.geteuid():
        raise ListenError(
            f"the directory {directory} belongs to user {found.st_uid}, the agent runs as user {os.geteuid()}: "
            "choose a directory of the agent's own for `listen`"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ListenError(
            f"the directory {directory} is open to other users (mode {mode:04o}), who could then have processes killed: if it is the "
            f"agent's own, run `chmod 700 {directory}` (systemd: RuntimeDirectoryMode=0700), else choose another one for `listen`"
        )


def _lock(path: str) -> int:
    name = path + ".lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ListenError(f"cannot open the lock file {name}: {error.strerror}; remove it if nothing of yours is in it") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        if error.errno == errno.EWOULDBLOCK:
            raise _taken(path, int(holder) if holder.isdigit() else 0) from error
        raise ListenError(f"cannot lock {name}: {error.strerror}") from error
    return lock


def _clear(path: str) -> None:
    """Remove the socket of a server that is gone; refuse what is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "not a socket"
        raise ListenError(f"{path} exists and is {kind}: remove it or choose another path for `listen`")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a living server with a full backlog answers EAGAIN instead of making us wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
        except BlockingIOError as error:
            raise _taken(path, 0) from error
        except OSError as error:
            raise ListenError(f"cannot tell whether the socket {path} is in use: {error.strerror}; remove it if it is not") from error
        else:
            # Credentials of the process that called listen(2), unix(7).
            pid, _, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
            raise _taken(path, pid)


def _taken(path: str, pid: int) -> ListenError:
    who = f" (pid {pid})" if pid else ""
    return ListenError(f"another agent{who} listens on {path}: stop it first, or give this one another `listen`")
