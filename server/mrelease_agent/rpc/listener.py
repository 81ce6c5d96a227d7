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
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from mrelease_agent.address import AddressError, TcpAddress, UnixAddress, parse
from mrelease_agent.rpc.private_socket import PrivateSocket
from mrelease_agent.rpc.socket_directory import ListenError, group_id, make_group_directory, make_private_directory

if TYPE_CHECKING:
    from mrelease_agent.rpc.relay import Relay

#: A second server on the same port is an error, not a silent partner that gets half of the calls.
CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (("grpc.so_reuseport", 0),)


class Endpoint:
    """A prepared place: give ``grpc_address`` and ``channel_options`` to gRPC, call ``bound``, start gRPC, call ``relay``.

    ``group``: who may connect to the Unix socket beside its owner. ``private``: gRPC listens there, and a relay on the Unix socket.
    """

    def __init__(self, address: UnixAddress | TcpAddress, group: int | None = None, private: PrivateSocket | None = None) -> None:
        self._address = address
        self._group = group
        self._private = private
        self._inode: tuple[int, int] | None = None
        self._listener: socket.socket | None = None
        self._relay: Relay | None = None
        self.channel_options: tuple[tuple[str, int], ...] = CHANNEL_OPTIONS

    @property
    def grpc_address(self) -> str:
        """What ``add_insecure_port`` takes: ``unix:/path`` (percent-encoded, as gRPC decodes it) or ``127.0.0.1:port``."""
        if self._private is not None:
            return self._private.grpc_address
        return f"unix:{quote(self._address.path)}" if isinstance(self._address, UnixAddress) else str(self._address)

    @property
    def relayed(self) -> bool:
        """Whether callers of the Unix socket are told apart."""
        return self._private is not None

    @property
    def listen(self) -> str:
        """The address as configuration and callers write it; after ``bound`` with the port that the kernel chose."""
        return f"unix://{self._address.path}" if isinstance(self._address, UnixAddress) else f"tcp://{self._address}"

    @property
    def path(self) -> Path | None:
        """The Unix socket; None for TCP."""
        return Path(self._address.path) if isinstance(self._address, UnixAddress) else None

    def bound(self, port: int = 0) -> None:
        """Take note that gRPC listens now: ``port`` is what ``add_insecure_port`` returned. A Unix socket becomes 0600, or 0660.

        Raises ListenError where gRPC left no socket at the path.
        """
        if isinstance(self._address, TcpAddress):
            self._address = TcpAddress(self._address.host, port or self._address.port)
            return
        path = self._address.path
        try:
            if self._private is not None:
                self._private.hide()
                self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._listener.bind(path)
            if self._group is not None:
                os.chown(path, -1, self._group)
            Path(path).chmod(0o600 if self._group is None else 0o660)
            found = os.lstat(path)
            if self._listener is not None:  # only now can anybody connect
                self._listener.listen(socket.SOMAXCONN)
        except OSError as error:
            raise ListenError(f"cannot make the socket {path} private: {error.strerror}") from error
        self._inode = (found.st_dev, found.st_ino)

    def relay(self, limit: int) -> None:
        """Where this place is to tell callers apart: relay them to gRPC until ``remove``, ``limit`` at once, on the running event loop."""
        if self._private is None or self._listener is None:
            return
        from mrelease_agent.rpc.peers import peers
        from mrelease_agent.rpc.relay import Relay

        self._relay = Relay(self._listener, self._private.target, peers, limit)

    def remove(self) -> None:
        """Remove the socket, if it is still the one that ``bound`` saw; gRPC may have done so already."""
        if self._relay is not None:
            self._relay.close()
        if self._listener is not None:
            self._listener.close()
        if self._inode is None or not isinstance(self._address, UnixAddress):
            return
        with suppress(FileNotFoundError):
            found = os.lstat(self._address.path)
            if (found.st_dev, found.st_ino) == self._inode:
                Path(self._address.path).unlink()


@contextmanager
def prepare(listen: str, *, group: str = "", relayed: bool = False) -> Generator[Endpoint, None, None]:
    """Make it safe to listen on ``listen`` (see ``address.parse``) for as long as the context lasts.

    Unix: the directory exists, is the agent's own and closed to everyone else, or to everyone but ``group``; a lock beside the socket is
    held, so that of two agents that start at once one fails; what a dead agent left is removed. With ``relayed`` callers are told apart.
    TCP: the port is free.

    Raises ListenError, before anything was changed at the path of the socket.
    """
    try:
        address = parse(listen)
    except AddressError as error:
        raise ListenError(f"cannot listen on {listen!r}: it {error}") from error
    if isinstance(address, TcpAddress):
        check_port(address)
        yield Endpoint(address)
        return
    gid = group_id(group) if group else None
    if gid is None:
        make_private_directory(Path(address.path).parent)
    else:
        make_group_directory(Path(address.path).parent, gid)
    lock = _lock(address.path)
    try:
        _clear(address.path)
        with PrivateSocket.beside(address.path) if relayed else nullcontext() as private:
            endpoint = Endpoint(address, gid, private)
            try:
                yield endpoint
            finally:
                endpoint.remove()
    finally:
        # The lock file stays: removing it would let one agent lock the old file and another one a new file of the same name.
        os.close(lock)


def check_port(address: TcpAddress) -> None:
    """Find out whether a port can be had, and why not. Raises ListenError."""
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
