"""HTTP/2 of a caller on the socket: judged the same however its bytes are cut, and no header block passes that is longer than the limit."""

from __future__ import annotations

from mrelease_agent.rpc.frames import MAX_HEADER_BLOCK, Frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def one_input(data: bytes) -> None:
    """The length of a first cut and of the others, then what follows the preface."""
    if len(data) < 2:
        return
    first, step, stream = data[0], data[1] + 1, PREFACE + data[2:]
    whole, cut = Frames(), Frames()
    passed = whole.pass_on(memoryview(stream))
    pieces = [stream[:first], *(stream[at : at + step] for at in range(first, len(stream), step))]
    assert all(cut.pass_on(memoryview(piece)) for piece in pieces if piece) == passed
    calls, longest = expected(stream[len(PREFACE) :])
    assert passed == (longest <= MAX_HEADER_BLOCK)
    if passed:
        assert whole.calls == cut.calls == calls


def expected(frames: bytes) -> tuple[int, int]:
    """Calls, and the longest header block, as one reads RFC 9113: no state but the block."""
    calls = block = longest = at = 0
    while at + 9 <= len(frames):
        length, kind = int.from_bytes(frames[at : at + 3], "big"), frames[at + 3]
        calls += kind == 1
        block = length if kind == 1 else block + length if kind == 9 else block
        longest = max(longest, block)
        at += 9 + length
    return calls, longest
