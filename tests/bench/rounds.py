"""One measurement: a fresh victim, one contender, one observer that belongs to neither."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

from bench.contenders import AGENT, TCP, Account, Contender
from bench.judge import wrong
from bench.results import Measurement
from bench.stages import Bench, Stage
from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.observe import Observer

_LOOK_SECONDS = 0.01
#: Who has missed the limit so often sits out the other rounds: it has been seen, and waiting for it is what costs most.
_ENOUGH = 2

T = TypeVar("T")
MakeStage = Callable[[Bench, int, bool], AbstractContextManager[Stage]]


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of victim: ``stage`` makes a fresh one of ``size_bytes``, ``by`` names who kills it.

    Each is watched until it has exited, or only until its memory is ``back`` where it cannot exit, for at most ``limit`` seconds.
    ``seconds`` is what the whole case takes on a machine of 2 CPUs.
    """

    name: str
    title: str
    about: str
    size_bytes: int
    limit: float
    rounds: int
    by: tuple[str, ...]
    stage: MakeStage
    seconds: int
    until: Literal["exit", "back"] = "exit"

    def small(self, size: int, limit: float, rounds: int) -> Case:
        """The same with victims of at most ``size`` bytes, at most ``limit`` seconds and ``rounds`` rounds."""
        return replace(self, size_bytes=min(self.size_bytes, size), limit=min(self.limit, limit), rounds=rounds)


def measure(bench: Bench, case: Case, contender: Contender, number: int) -> tuple[Measurement, Stage]:
    """Let one contender kill one victim."""
    with ExitStack() as stack:
        stage = stack.enter_context(Whole(case.stage(bench, case.size_bytes, contender.contained)))
        stack.callback(contender.close)
        with uninterrupted():
            contender.prepare(stage, case.limit)
        observer = stack.enter_context(Observer([stage.pidfd], stage.gauge))
        begin = observer.begin()
        contender.fire()
        _wait(observer, case)
        account = contender.account()
        observer.wait(_LOOK_SECONDS * 2)  # one look more: what is held after the answer
        track = observer.tracks[0]
        verdict = _judge(contender, account, observer, begin, stage.processes)
        track = track.until(case.limit)
        stage.relax()
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
        boost=account.boost,
        wrong=verdict,
        samples=[(round(seconds - shift, 6), held) for seconds, held in track.samples if seconds > shift],
    )
    return measurement, stage


def play(bench: Bench, case: Case, contenders: list[Contender], say: Callable[[str], None]) -> Iterator[tuple[Measurement, Stage]]:
    """Let every contender have its turn in every round, each round beginning with another one."""
    missed = dict.fromkeys((contender.name for contender in contenders), 0)
    for number in range(case.rounds):
        first = number % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            if missed[contender.name] >= _ENOUGH:
                continue
            measurement, stage = measure(bench, case, contender, number)
            done = measurement.exit_seconds if case.until == "exit" else measurement.back_seconds
            missed[contender.name] += done is None
            say(f"{case.name} {number + 1}/{case.rounds} {contender.name}: {_told(measurement)}")
            yield measurement, stage


def _wait(observer: Observer, case: Case) -> None:
    deadline = time.monotonic() + case.limit
    while not observer.wait(_LOOK_SECONDS) and time.monotonic() < deadline:
        if case.until == "back" and observer.tracks[0].back_seconds is not None:
            return


def _judge(contender: Contender, account: Account, observer: Observer, begin: float, processes: int) -> str:
    if contender.name not in (AGENT, TCP) or account.origin is None or account.call_seconds is None:
        return ""
    track = observer.tracks[0]
    return wrong(account, track, account.origin + account.call_seconds - begin, processes)


def _told(measurement: Measurement) -> str:
    back, gone = (
        f"not {word}" if seconds is None else f"{word} in {seconds * 1000:.1f} ms"
        for word, seconds in (("back", measurement.back_seconds), ("exited", measurement.exit_seconds))
    )
    words = [back, gone, measurement.verdict, measurement.boost, f"WRONG: {measurement.wrong}" if measurement.wrong else ""]
    return ", ".join(word for word in words if word)


class Whole(Generic[T]):
    """A context manager that is entered, and left, without being interrupted in the middle."""

    def __init__(self, manager: AbstractContextManager[T]) -> None:
        self._manager = manager

    def __enter__(self) -> T:
        entered = False
        try:
            with uninterrupted():
                made = self._manager.__enter__()
                entered = True
        except BaseException:
            if entered:
                self._manager.__exit__(None, None, None)
            raise
        return made

    def __exit__(self, *raised: Any) -> bool | None:
        with uninterrupted():
            return self._manager.__exit__(*raised)


def _minus(seconds: float | None, shift: float) -> float | None:
    return None if seconds is None else max(0.0, seconds - shift)
