"""The observer: ``observer.c`` as a process of its own, which watches one kill after another."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path

from soak.track import Track, parse


class Observer:
    """A running observer. Its sizes are bytes, its clock is ``time.monotonic_ns``."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        self._said = io.TextIOWrapper(io.BufferedReader(io.FileIO(self._process.stdout.fileno(), closefd=False)), encoding="ascii")
        self._armed: list[int] = []

    def watch(self, pids: Sequence[int], charge: Path | None) -> None:
        """Open what is to be read of these processes and of the file ``charge``, and begin to look, for now every 5 ms."""
        self._order(f"watch {charge or '-'} {' '.join(map(str, pids))}")
        self._armed = [int(word) for word in self._line().split()[1:]]

    def begin(self) -> None:
        """The kill comes now: look as often as possible."""
        self._order("begin")
        self._line()

    def answer(self) -> None:
        """The answer has come: look at everything at once. Does not wait for it."""
        self._order("answer")

    def end(self) -> Track:
        """What was seen."""
        self._order("end")
        lines: list[str] = []
        while (line := self._line()) != ".":
            lines.append(line)
        track = parse(lines)
        _, _, track.swap, track.shared, track.threads = self._armed
        return track

    def _order(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    def _line(self) -> str:
        line = self._said.readline()
        if not line:
            raise RuntimeError(f"the observer ended: status {self._process.wait()}")
        return line.rstrip("\n")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._said.close()
        self._process.stdout.close()


@contextlib.contextmanager
def observing(program: Path) -> Generator[Observer]:
    """An observer for as long as the context lasts."""
    observer = Observer(program)
    try:
        yield observer
    finally:
        observer.close()
