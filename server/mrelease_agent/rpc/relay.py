"""Accepts on the Unix socket in gRPC's place, because gRPC for Python does not tell who is at the other end of one.

Each caller's credentials are asked of the kernel when it connects (SO_PEERCRED, unix(7)). The connection is then relayed to gRPC's own
socket, which has no name in any directory, from a socket that is bound to a name by which ``peers`` knows them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
import time
from typing import Final

from mrelease_agent.guard.caller import Caller
from mrelease_agent.rpc.pace import Pace
from mrelease_agent.rpc.peers import Peers
from mrelease_agent.rpc.relay_link import Link
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERPIDFD: Final = 77  # asm-generic/socket.h; Linux 6.5
#: Connections that are accepted before those that are there get their turn.
_AT_ONCE: Final = 16
#: Seconds without accepting when the process has no descriptor or memory left for another connection.
_PAUSE: Final = 0.1
#: Seconds between two lines about refused connections.
_QUIET: Final = 10.0


class Relay:
    """Relays every connection of ``listener`` to ``target``, the path of gRPC's socket, for as long as it is open.

    There are never more than ``limit``, and no user may have more of them than are still free: however many one opens, and then another
    one, there is room for the next.
    """

    def __init__(self, listener: socket.socket, target: str, peers: Peers, limit: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._target = target
        self._peers = peers
        self._limit = limit
        self._links: dict[str, Link] = {}
        self._users: dict[int, Pace] = {}
        self._resume: asyncio.TimerHandle | None = None
        self._refused = 0
        self._said = -_QUIET
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)
        peers.established = True

    def close(self) -> None:
        """Accept nothing more and end every connection."""
        if self._resume:
            self._resume.cancel()
        self._loop.remove_reader(self._listener)
        for link in list(self._links.values()):
            link.close()
        self._peers.established = False

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._loop.remove_reader(self._listener)
                self._resume = self._loop.call_later(_PAUSE, self._loop.add_reader, self._listener, self._accept)
                return
            if not self._take(connection):
                connection.close()

    def _take(self, connection: socket.socket) -> bool:
        """Relay a connection; False where it is refused."""
        try:
            caller = credentials(connection)
        except OSError:
            return False
        user = -1 if caller.uid is None else caller.uid
        pace = self._users.get(user) or Pace()
        if pace.connections >= self._limit - len(self._links):
            self._refuse(caller)
            return False
        try:
            grpc = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:
            self._refuse(caller)
            return False
        name = self._peers.add(caller)
        try:
            grpc.bind(f"\0{name}")
            grpc.connect(self._target)
        except OSError:  # BlockingIOError: more connections wait for gRPC than the kernel keeps
            self._peers.forget(name)
            grpc.close()
            self._refuse(caller)
            return False
        connection.setblocking(False)

        def closed() -> None:
            self._peers.forget(name)
            del self._links[name]
            pace.connections -= 1
            if not pace.connections and not pace.spent:
                del self._users[user]

        pace.connections += 1
        self._users[user] = pace
        self._links[name] = Link(self._loop, connection, grpc, pace, closed)
        return True

    def _refuse(self, caller: Caller) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._said >= _QUIET:
            self._said = now
            event(
                _log,
                logging.WARNING,
                "connections refused",
                count=self._refused,
                caller=caller.name,
                open=len(self._links),
                limit=self._limit,
            )
            self._refused = 0


def credentials(connection: socket.socket) -> Caller:
    """Who called connect(2), as the kernel noted it then. ``pid`` is None where it is not of this pid namespace, or gone already.

    Raises OSError.
    """
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Caller("unix", uid=uid, gid=gid, pid=pid if pid and _lives(connection) else None)


def _lives(connection: socket.socket) -> bool:
    """Whether the process that connected is still there: else its pid may be another one's by now. Before Linux 6.5 nobody knows."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    (pidfd,) = struct.unpack("i", raw)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)
