"""Refusals in the audit log: each caller has some of his own, and what is too much is counted."""

from __future__ import annotations

from mrelease_agent.guard.audit.denials import BURST, CALLER_BURST, NAMED, Denials


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_caller_has_a_burst_and_then_one_now_and_then() -> None:
    clock = Clock()
    denials = Denials(clock)
    assert sum(denials.written("a") for _ in range(1000)) == CALLER_BURST
    assert denials.take() == {"a": 1000 - CALLER_BURST}
    assert not denials.waiting
    clock.now += 3600
    assert sum(denials.written("a") for _ in range(1000)) == CALLER_BURST
    clock.now += 31
    assert [denials.written("a") for _ in range(3)] == [True, False, False]


def test_one_caller_does_not_silence_another() -> None:
    denials = Denials(Clock())
    for _ in range(1000):
        denials.written("a")
    assert denials.written("b")


def test_many_names_are_bounded_together() -> None:
    denials = Denials(Clock())
    assert sum(denials.written(f"caller-{number}") for number in range(5000)) == BURST
    counts = denials.take()
    assert len(counts) == NAMED + 1
    assert sum(counts.values()) == 5000 - BURST
    assert counts["other"] == 5000 - BURST - NAMED
