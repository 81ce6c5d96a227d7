"""The observer: one thread that follows, from before the kill, what each victim still holds and when it has exited."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mrelease.demo.gauges import Gauge
from mrelease.demo.processes import raise_own_priority

#: Memory is back when no more than this part of it is held: page tables and kernel stacks stay until the exit.
STILL_HELD = 0.05
#: Samples lie this part of the time since the kill apart, so that a result is about that exact, within these bounds in seconds.
_SPACING, _SHORTEST, _LONGEST = 0.01, 0.001, 0.02


@dataclass(slots=True)
class Track:
    """What was seen of one victim. Times are seconds after the kill, sizes bytes."""

    before: int = 0
    samples: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    exit_seconds: float | None = None
    back_seconds: float | None = None

    @property
    def held(self) -> int:
        """What the victim held when it was last looked at."""
        return self.samples[-1][1] if self.samples else self.before

    def add(self, seconds: float, held: int, *, exited: bool) -> None:
        """Note one look at the victim. Once it has exited, its memory is back whatever its cgroup still counts."""
        self.samples.append((seconds, held))
        if exited and self.exit_seconds is None:
            self.exit_seconds = seconds
        if self.back_seconds is None and (exited or held <= self.before * STILL_HELD):
            self.back_seconds = seconds

    def until(self, limit: float) -> Track:
        """Copy what was seen in the first ``limit`` seconds: what happens afterwards is the cleaning up."""
        copy = Track(before=self.before, samples=[s for s in list(self.samples) if s[0] <= limit])
        copy.exit_seconds = self.exit_seconds if self.exit_seconds is not None and self.exit_seconds <= limit else None
        copy.back_seconds = self.back_seconds if self.back_seconds is not None and self.back_seconds <= limit else None
        return copy


class Observer:
    """Follows processes by their pidfds and a gauge. A context manager: ends its thread on leaving."""

    def __init__(self, pidfds: Sequence[int], gauge: Gauge) -> None:
        self.tracks = [Track() for _ in pidfds]
        self.gauge = gauge
        self._pidfds = list(pidfds)
        self._origin: float | None = None
        self._failure: Exception | None = None
        self._finished = threading.Event()
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def __enter__(self) -> Observer:
        for track, held in zip(self.tracks, self.gauge.read(), strict=True):
            track.before = held
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._started.set()
        self._thread.join()
        self.gauge.close()

    def begin(self) -> float:
        """Say that the kill is now: sampling starts. Returns this moment by ``time.monotonic``."""
        self._origin = time.monotonic()
        self._started.set()
        return self._origin

    def wait(self, seconds: float) -> bool:
        """Wait until every victim has exited and no more than the small rest is held, at most ``seconds``. Raises what the gauge raised."""
        finished = self._finished.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return finished

    def _run(self) -> None:
        raise_own_priority()
        self._started.wait()
        try:
            self._follow()
        except Exception as failure:  # handed to who waits
            self._failure = failure
        self._finished.set()

    def _follow(self) -> None:
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        exited: set[int] = set()
        while not self._stop.is_set() and self._origin is not None:
            for pidfd, _ in poll.poll(0):
                exited.add(pidfd)
                poll.unregister(pidfd)
            sizes = self.gauge.read()
            seconds = time.monotonic() - self._origin
            for track, pidfd, held in zip(self.tracks, self._pidfds, sizes, strict=True):
                track.add(seconds, held, exited=pidfd in exited)
            if len(exited) == len(self._pidfds):
                return
            poll.poll(1000 * min(_LONGEST, max(_SHORTEST, seconds * _SPACING)))
