"""One measurement: a fresh victim, one contender, one observer that belongs to neither."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.contenders import Contender, Target
from mrelease.demo.gauges import Gauge
from mrelease.demo.observe import Observer


@dataclass(frozen=True, slots=True)
class Stage:
    """A victim that is ready to be killed. ``relax`` lets it exit once the measurement is over."""

    pid: int
    pidfd: int
    gauge: Gauge
    how: str
    relax: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one contender did in one round; seconds after its first step, None: not within the limit."""

    contender: str
    round: int
    held_bytes: int
    left_bytes: int
    back_seconds: float | None
    exit_seconds: float | None
    own_release_seconds: float | None
    call_seconds: float | None
    verdict: str
    samples: list[tuple[float, int]]


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of victim: ``stage`` makes a fresh one. ``limit`` is how long it is watched, in seconds."""

    name: str
    title: str
    size_bytes: int
    limit: float
    rounds: int
    stage: Callable[[int], AbstractContextManager[Stage]]
    about: str


def measure(case: Case, contender: Contender, number: int) -> tuple[Measurement, Stage]:
    """Let one contender kill one victim."""
    with case.stage(case.size_bytes) as stage:
        contender.prepare(Target(stage.pid, stage.pidfd, case.limit))
        with Observer([stage.pidfd], stage.gauge) as observer:
            begin = observer.begin()
            contender.fire()
            observer.wait(case.limit)
            track = observer.tracks[0].until(case.limit)
            stage.relax()
            account = contender.account()
        # The observer's clock began before the contender's first step: how long that took is not the contender's time.
        shift = 0.0 if account.origin is None else account.origin - begin
        measurement = Measurement(
            contender=contender.name,
            round=number,
            held_bytes=track.before,
            left_bytes=0 if track.exit_seconds is not None else track.held,
            back_seconds=_minus(track.back_seconds, shift),
            exit_seconds=_minus(track.exit_seconds, shift),
            own_release_seconds=account.release_seconds,
            call_seconds=account.call_seconds,
            verdict=account.verdict,
            samples=[(round(seconds - shift, 6), held) for seconds, held in track.samples if seconds > shift],
        )
    return measurement, stage


def play(case: Case, contenders: list[Contender], say: Callable[[str], None]) -> Iterator[tuple[Measurement, Stage]]:
    """Let every contender have its turn in every round, each round beginning with another one."""
    for number in range(case.rounds):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            measurement, stage = measure(case, contender, number)
            back = "not back" if measurement.back_seconds is None else f"back in {measurement.back_seconds * 1000:.1f} ms"
            say(f"{case.name} {number + 1}/{case.rounds} {contender.name}: {back}")
            yield measurement, stage


def _minus(seconds: float | None, shift: float) -> float | None:
    return None if seconds is None else max(0.0, seconds - shift)
