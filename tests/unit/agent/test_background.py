"""A log reader that stops reading does not stop the agent."""

from __future__ import annotations

import contextlib
import os
import threading

from mrelease_agent.telemetry.background import MAX_LINES, BackgroundStream


def test_a_writer_never_waits_and_hears_what_was_lost() -> None:
    read, write = os.pipe()
    lost: list[int] = []
    told = threading.Event()

    def hear(lines: int) -> None:
        lost.append(lines)
        told.set()

    line = "x" * 1023 + "\n"
    with os.fdopen(write, "w") as pipe, os.fdopen(read) as reader:
        stream = BackgroundStream(pipe, hear)
        written = 3 * MAX_LINES
        for _ in range(written):  # nobody reads: a direct write would block after the pipe's 64 KiB
            stream.write(line)
        assert not lost

        kept = [reader.readline() for _ in range(MAX_LINES // 2 + 128)]
        assert told.wait(30)
        assert set(kept) == {line}
        assert 0 < lost[0] <= written - MAX_LINES

        rest = threading.Thread(target=reader.read, daemon=True)
        rest.start()
        stream.close(30)
        pipe.close()
        rest.join(30)


def test_what_waits_is_written_at_the_end() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe, os.fdopen(read) as reader:
        stream = BackgroundStream(pipe, lambda _lines: None)
        stream.write("last words\n")
        stream.close(30)
        assert reader.readline() == "last words\n"


def test_a_closed_reader_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    pipe = os.fdopen(write, "w")
    stream = BackgroundStream(pipe, lambda _lines: None)
    stream.write("to nobody\n")
    stream.close(30)
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
