"""What a node sends through the API server for a port: the bytes of the port, or NoAgent in words that no terminal obeys."""

from __future__ import annotations

from fuzz.kit import assert_readable
from mrelease.errors import NoAgent
from mrelease.resolvers.kubernetes._tunnel import Frames


def one_input(data: bytes) -> None:
    """Messages, each with its length before it."""
    frames, sent, got = Frames(), b"", b""
    while data:
        message, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        if message[:1] == b"\0":
            # The first message has the port, and is whole.
            sent += message[1:] if sent else message[1:].ljust(2, b"?")
        try:
            got += frames.data(message)
        except NoAgent as error:
            assert_readable(str(error), about="cannot be reached")
            return
    assert got == sent[2:]
