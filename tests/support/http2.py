"""HTTP/2 by hand, RFC 9113: what no client library would send."""

from __future__ import annotations

import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS = 1, 4
SETTINGS_INITIAL_WINDOW_SIZE = 4
CANCEL = struct.pack(">I", 8)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame, RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def setting(number: int, value: int) -> bytes:
    """One setting, section 6.5.1."""
    return struct.pack(">HI", number, value)


#: What a client begins with; its settings are empty.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
#: The same of a client that lets nothing be sent to it on any stream.
PREFACE_NEVER_READING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, setting(SETTINGS_INITIAL_WINDOW_SIZE, 0))


def _literal(name: str, value: str) -> bytes:
    """A literal header field without indexing, RFC 7541 section 6.2.2."""
    return b"\x00" + _integer(len(name)) + name.encode() + _integer(len(value)) + value.encode()


def _integer(number: int) -> bytes:
    """RFC 7541 section 5.1 with a prefix of seven bits."""
    if number < 127:
        return bytes([number])
    out = bytearray([127])
    number -= 127
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def headers(path: str, **fields: str) -> bytes:
    """The header block of a gRPC call; names of more fields are written with underscores."""
    pairs = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers", "content-type": "application/grpc"}
    pairs |= {name.replace("_", "-"): value for name, value in fields.items()}
    return b"".join(_literal(name, value) for name, value in pairs.items())


def begin(stream: int, path: str, **fields: str) -> bytes:
    """Open a stream for a call."""
    return frame(HEADERS, END_HEADERS, stream, headers(path, **fields))


def message(body: bytes) -> bytes:
    """A gRPC message without compression, with its length in front."""
    return b"\0" + struct.pack(">I", len(body)) + body


def call(stream: int, path: str, body: bytes, **fields: str) -> bytes:
    """A whole unary call; the body fits into one frame."""
    return begin(stream, path, **fields) + frame(DATA, END_STREAM, stream, message(body))
