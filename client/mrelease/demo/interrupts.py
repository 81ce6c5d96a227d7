"""Ctrl-C, SIGTERM and SIGHUP as one exception that unwinds and cleans up, once: a second one does not break the cleaning."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the demo to stop; ``number`` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Deferred:
    """Signals that came while nothing may be interrupted. Signal handlers run in the main thread only, so no lock is needed."""

    depth = 0
    number: int | None = None


@contextmanager
def uninterrupted() -> Generator[None, None, None]:
    """Put ``Interrupted`` off until the block is left: what the block starts is noted, what it ends is ended.

    Masking the signals would not do: the kernel gives them to any thread, and gRPC has threads.
    """
    _Deferred.depth += 1
    try:
        yield
    finally:
        _Deferred.depth -= 1
        number = _Deferred.number
        if number is not None and _Deferred.depth == 0:
            _Deferred.number = None
            raise Interrupted(number)


@contextmanager
def interruptible() -> Generator[None, None, None]:
    """Raise ``Interrupted`` in the main thread on the first signal and ignore further ones until the block is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: FrameType | None) -> None:
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        if _Deferred.depth == 0:
            raise Interrupted(number)
        _Deferred.number = number

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
