"""A stream that never makes its writer wait: what reads the agent's standard error may itself be out of memory or time."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Final, TextIO

#: Lines that wait at most. What comes while as many wait is lost, and counted.
MAX_LINES: Final = 4096


class BackgroundStream:
    """Writes to ``stream`` on a thread of its own. ``lost`` is called there with the number of lines that were dropped.

    What waits when the process ends is written for up to a second.
    """

    def __init__(self, stream: TextIO, lost: Callable[[int], None]) -> None:
        self._stream = stream
        self._report = lost
        self._lines: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, text: str) -> int:
        """Queue ``text``, or drop it where too much waits."""
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: waiting is what this is not for."""

    def close(self, timeout: float = 1.0) -> None:
        """Write what waits, for up to ``timeout`` seconds."""
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=timeout)
            self._thread.join(timeout)

    def _work(self) -> None:
        while (text := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe: there is nowhere to say so
                self._stream.write(text)
                self._stream.flush()
            if self._lost and self._lines.qsize() < MAX_LINES // 2:
                lost, self._lost = self._lost, 0
                self._report(lost)
