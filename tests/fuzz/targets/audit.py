"""Audit logs that somebody wrote who knows how records are chained: the agent goes on or says what is wrong, `verify` says it too."""

from __future__ import annotations

import os

from fuzz.kit import assert_readable, scratch
from mrelease import _audit_chain
from mrelease._audit_chain import GENESIS, BadRecordError, Head, write_head
from mrelease._audit_verify import verify
from mrelease_agent.guard.audit.recovery import read_tail

SEALED, HEADED, TORN = 1, 2, 4


def one_input(data: bytes) -> None:
    """The first byte chooses: whether lines are sealed into a chain, a head file written, the last line cut."""
    how, text = (data[0], data[1:]) if data else (0, b"")
    lines = text.split(b"\n")
    content = chained(lines) if how & SEALED else text
    if how & TORN:
        content = content[:-1]
    folder = scratch() / "audit"
    folder.mkdir(exist_ok=True)
    file = folder / _audit_chain.file_name(1)
    file.write_bytes(content)
    (folder / "head").write_bytes(write_head(Head(how, GENESIS)) if how & HEADED else text[:128])

    fd = os.open(file, os.O_RDONLY)
    try:
        tail = read_tail(fd, file.name, None)
    finally:
        os.close(fd)
    assert tail.size + tail.torn <= len(content)
    assert tail.seq >= 0
    assert all(seq > 0 for seq in tail.open)
    if tail.problem:
        assert_readable(tail.problem)

    report = verify([folder])
    assert report.records <= content.count(b"\n")
    for problem in report.problems:
        assert_readable(problem.text)
    if tail.problem:  # what the agent does not go on from is not called whole
        assert report.problems


def chained(lines: list[bytes]) -> bytes:
    """Records with what is in the lines, each of which names itself and its number: EVENT, a digit more than the last number, the rest."""
    out, before, seq = b"", GENESIS, 0
    for line in lines:
        event, _, rest = line.partition(b" ")
        seq += 1 + (rest[0] - 48 if rest[:1].isdigit() else 0)
        body = b'{"event":"%b","v":1,"seq":%d,"time":"t","prev":"%b"%b}' % (event, seq, before.encode(), rest.lstrip(b"0123456789"))
        sealed, digest = _audit_chain.seal(body)
        try:
            _audit_chain.link(sealed[:-1])
        except BadRecordError:
            sealed = line + b"\n"
        else:
            before = digest
        out += sealed
    return out
