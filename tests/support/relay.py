"""A way to a server's port that a test can shut, open and cut: what a network does to a connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator


class Relay:
    """Shut at first: who connects is hung up on. Opened, it hands on bytes, encrypted or not, as they come."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._is_open = False
        self._ended = False
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        """Where to connect to."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def open(self) -> None:
        """From now on who connects gets through."""
        with self._lock:
            self._is_open = True

    def cut(self) -> None:
        """Every connection ends now; new ones get through as before."""
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):  # it has ended by itself
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End all of it."""
        with self._lock:
            self._ended = True
        with socket.create_connection(self._listener.getsockname()):  # accept(2) returns
            pass
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for end in (*self._ends, self._listener):
            end.close()

    def _accept(self) -> None:
        while True:
            caller, _ = self._listener.accept()
            with self._lock:
                if self._ended or not self._is_open:
                    caller.close()
                    if self._ended:
                        return
                    continue
                host, _, port = self._to.rpartition(":")
                server = socket.create_connection((host, int(port)))
                self._ends += (caller, server)
                pumps = [threading.Thread(target=_pump, args=ends) for ends in ((caller, server), (server, caller))]
                self._threads += pumps
            for pump in pumps:
                pump.start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay(to: str) -> Generator[Relay, None, None]:
    """A way to ``host:port``."""
    way = Relay(to)
    try:
        yield way
    finally:
        way.close()
