"""One connection through the relay: bytes both ways between a caller and gRPC, never more than one read of them kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final

from mrelease_agent.rpc.frames import Frames
from mrelease_agent.rpc.pace import Pace

#: One read. All links share one buffer: what a read brought is written on before anything else is read.
SIZE: Final = 65536
#: One read of a caller that begins calls too fast: some twenty of them.
_SMALL: Final = 2048
_buffer: Final = memoryview(bytearray(SIZE))


class _Way:
    """One direction. ``rest``: what the sink has not taken yet; while there is any, nothing more is read."""

    __slots__ = ("ended", "rest", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.rest = b""
        self.ended = False


class Link:
    """Relays between two connected, non-blocking sockets and closes both when it is over; ``closed`` is called once, before that.

    A caller that sends what would cost gRPC unbounded memory (see Frames) is hung up on.

    A caller that says that it sends no more (shutdown(2)) still gets what gRPC has for it; when gRPC has closed its end, all is over.
    """

    __slots__ = ("_calls", "_closed", "_frames", "_inward", "_loop", "_outward", "_pace", "_pause")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        caller: socket.socket,
        grpc: socket.socket,
        pace: Pace,
        closed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._pace = pace
        self._pause: asyncio.TimerHandle | None = None
        self._calls = 0
        self._frames = Frames()
        self._inward = _Way(caller, grpc)
        self._outward = _Way(grpc, caller)
        self._closed: Callable[[], None] | None = closed
        loop.add_reader(caller, self._readable, self._inward)
        loop.add_reader(grpc, self._readable, self._outward)

    def close(self) -> None:
        """End it at once."""
        if self._closed is None:
            return
        self._closed()
        self._closed = None
        if self._pause is not None:
            self._pause.cancel()
        for end in (self._inward.source, self._outward.source):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            end.close()

    def _readable(self, way: _Way) -> None:
        try:
            count = way.source.recv_into(_buffer, _SMALL if way is self._inward and self._pace.spent else SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
            return
        if count == 0:
            self._end(way)
            return
        data = _buffer[:count]
        if way is self._inward and not self._frames.pass_on(data):
            self.close()
            return
        sent = self._send(way, data)
        if sent is None:
            return
        if sent < count:
            way.rest = bytes(data[sent:])
            self._loop.remove_reader(way.source)
            self._loop.add_writer(way.sink, self._writable, way)
        if way is self._inward and self._frames.calls != self._calls:
            self._rest()

    def _rest(self) -> None:
        """Calls were begun: if too many, nothing more is read for a while."""
        seconds = self._pace.begin(self._frames.calls - self._calls)
        self._calls = self._frames.calls
        if seconds:
            self._loop.remove_reader(self._inward.source)
            self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        if not self._inward.rest:
            self._loop.add_reader(self._inward.source, self._readable, self._inward)

    def _writable(self, way: _Way) -> None:
        sent = self._send(way, way.rest)
        if sent is None:
            return
        way.rest = way.rest[sent:]
        if not way.rest:
            self._loop.remove_writer(way.sink)
            if way is self._outward or self._pause is None:
                self._loop.add_reader(way.source, self._readable, way)

    def _send(self, way: _Way, data: memoryview | bytes) -> int | None:
        """How many bytes the sink took; None: it takes no more, and the link is closed."""
        try:
            return way.sink.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.close()
            return None

    def _end(self, way: _Way) -> None:
        if way is self._outward:
            self.close()
            return
        self._loop.remove_reader(way.source)
        with contextlib.suppress(OSError):
            way.sink.shutdown(socket.SHUT_WR)
