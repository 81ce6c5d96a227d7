"""A look at the HTTP/2 that a caller sends: only at what gRPC keeps in memory without a bound.

gRPC refuses a call with too much metadata, but keeps all of it for as long as the call lasts, and for as many calls as there may be.
"""

from __future__ import annotations

from typing import Final

#: Bytes of one header block, RFC 9113 section 4.3, in all its frames; a usual one has some 200.
MAX_HEADER_BLOCK: Final = 16 * 1024
_PREFACE: Final = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_HEADER: Final = 9
_HEADERS: Final = 1
_CONTINUATION: Final = 9


class Frames:
    """Follows the frames of one connection, RFC 9113 section 4.1, through chunks of bytes that begin and end anywhere."""

    __slots__ = ("_block", "_left", "_part", "calls")

    def __init__(self) -> None:
        self._left = _PREFACE  # bytes of the present frame that are still to come
        self._part = b""  # of a frame's header
        self._block = 0
        self.calls = 0
        """Calls begun so far."""

    def pass_on(self, data: memoryview) -> bool:
        """Whether gRPC may have these bytes; False: the connection is to be closed."""
        at = self._left
        size = len(data)
        if at >= size and not self._part:
            self._left = at - size
            return True
        if self._part:
            missing = _HEADER - len(self._part)
            self._part += bytes(data[:missing])
            if len(self._part) < _HEADER:
                return True
            header, self._part = self._part, b""
            at = missing + int.from_bytes(header[:3], "big")
            if not self._count(header[3], at - missing):
                return False
        while at + _HEADER <= size:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if not self._count(data[at + 3], length):
                return False
            at += _HEADER + length
        if at < size:
            self._part = bytes(data[at:])
            self._left = 0
        else:
            self._left = at - size
        return True

    def _count(self, kind: int, length: int) -> bool:
        if kind == _HEADERS:
            self._block = length
            self.calls += 1
        elif kind == _CONTINUATION:
            self._block += length
        else:
            return True
        return self._block <= MAX_HEADER_BLOCK
