"""The breaker: never more than a limit in any window, what is refused leaves no trace, and the retry that is named is admitted."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrelease_agent.guard.breaker import KillBreaker, Limits
from mrelease_agent.guard.caller import Caller
from mrelease_agent.guard.gate import Ask, Everything, Grant
from mrelease_agent.guard.policy.decide import RuleGrant
from mrelease_agent.guard.policy.rules import CompiledRule, Condition, Limit
from mrelease_agent.guard.refusals import OverLimit
from mrelease_agent.guard.subject import Subject
from mrelease_agent.guard.window import Table, Window
from mrelease_agent.linux.process import ProcessRef
from support import lab

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
ANN, BOB = Caller("mtls", dns=("ann",)), Caller("mtls", dns=("bob",))


class Clock:
    def __init__(self, now: int = 10**15) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def me() -> Generator[ProcessRef]:
    with ProcessRef.open(os.getpid()) as ref:
        yield ref


@pytest.fixture
def told() -> list[str]:
    return []


def ask(caller: Caller = ANN, kind: str = "process", target: str = "process 1") -> Ask:
    return Ask(caller, "KillAndRelease", kind, target, kill=True)


def refusal(breaker: KillBreaker, asked: Ask, subjects: list[Subject], grant: Grant | None = None) -> OverLimit:
    with pytest.raises(OverLimit) as refused:
        breaker.admit(asked, grant or Everything(), subjects)
    return refused.value


def admit(breaker: KillBreaker, asked: Ask, subjects: list[Subject], grant: Grant | None = None) -> None:
    breaker.admit(asked, grant or Everything(), subjects)


# The window


@given(
    limit=st.integers(1, 30),
    length=st.sampled_from([1, 1000, MINUTE]),
    orders=st.lists(st.tuples(st.floats(0, 0.7), st.integers(1, 35)), max_size=60),
)
def test_never_more_than_the_limit_in_any_window(limit: int, length: int, orders: list[tuple[float, int]]) -> None:
    window, now = Window(length), 10**15
    admitted: list[tuple[int, int]] = []
    for share, amount in orders:
        now += int(share * length)
        wait = window.wait(amount, limit, now)
        assert (wait is None) == (amount > limit)
        if wait == 0:
            window.add(amount, now)
            admitted.append((now, amount))
        elif wait is not None:
            assert 0 < wait <= length
            assert window.wait(amount, limit, now) == wait, "asking changes nothing"
    for begin, _ in admitted:
        assert sum(amount for at, amount in admitted if begin <= at < begin + length) <= limit


@given(
    limit=st.integers(1, 30),
    orders=st.lists(st.tuples(st.integers(0, MINUTE), st.integers(1, 30)), min_size=1, max_size=40),
    wanted=st.integers(1, 30),
)
def test_the_wait_is_exact(limit: int, orders: list[tuple[int, int]], wanted: int) -> None:
    window, now = Window(MINUTE), 10**15
    for after, amount in orders:
        now += after
        if window.wait(amount, limit, now) == 0:
            window.add(amount, now)
    wait = window.wait(wanted, limit, now)
    if wait:
        assert window.wait(wanted, limit, now + wait - 1) == 1
        assert window.wait(wanted, limit, now + wait) == 0


def test_a_window_stays_small_whatever_it_counts() -> None:
    window = Window(MINUTE)
    for step in range(100_000):
        window.add(1, 10**15 + step * MINUTE // 10_000)
    assert len(window) <= 130


def test_names_that_are_made_up_share_one_window() -> None:
    table = Table(8, lambda: Window(MINUTE))
    for number in range(8):
        window = table.get(number, 0)
        window.add(1, 0)
        table.put(number, window)
    for number in range(8, 1000):
        window = table.get(number, 1)
        window.add(1, 1)
        table.put(number, window)
    assert len(table) == 8
    assert table.get("another", 2).used(2) == 992
    assert table.get(3, 2).used(2) == 1
    assert table.get("another", MINUTE + 1).used(MINUTE + 1) == 0
    assert len(table) < 8


# Limits


def test_a_caller_over_its_limit_does_not_cost_another_one(clock: Clock, me: ProcessRef, told: list[str]) -> None:
    breaker = KillBreaker(Limits(max_kills_per_caller=3), told.append, clock)
    for _ in range(3):
        admit(breaker, ask(), [Subject(me)])
    over = refusal(breaker, ask(), [Subject(me)])
    assert (over.limit, over.scope) == ("max_kills_per_caller", "caller")
    assert "nothing was signalled" in over.message
    admit(breaker, ask(BOB), [Subject(me)] * 3)
    assert told == ["max_kills_per_caller"]


def test_all_callers_together_meet_the_limit_of_the_node(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_kills=5, max_kills_per_caller=3), clock=clock)
    admit(breaker, ask(), [Subject(me)] * 3)
    assert refusal(breaker, ask(BOB), [Subject(me)] * 3).scope == "node"
    admit(breaker, ask(BOB), [Subject(me)] * 2)
    assert breaker.state() == {"max_kills": (5, 5), "max_kills_per_caller": (3, 3)}


def test_what_is_refused_leaves_no_trace(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_kills=10, max_kills_per_caller=4, max_bytes=100), clock=clock)
    before = breaker.state()
    for _ in range(1000):
        assert refusal(breaker, ask(), [Subject(me, 1)] * 5).retry_after is None
        assert refusal(breaker, ask(), [Subject(me, 101)]).retry_after is None
    assert breaker.state() == before
    admit(breaker, ask(), [Subject(me, 25)] * 4)


def test_the_retry_that_is_named_is_admitted_and_none_before(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(window=60, max_kills_per_caller=3), clock=clock)
    for _ in range(3):
        admit(breaker, ask(), [Subject(me)])
        clock.now += 10 * SECOND
    over = refusal(breaker, ask(), [Subject(me)] * 2)
    assert over.retry_after == pytest.approx(40, abs=0.001)
    clock.now += 40 * SECOND - 1
    refusal(breaker, ask(), [Subject(me)] * 2)
    clock.now += 1_000_001
    admit(breaker, ask(), [Subject(me)] * 2)


def test_bytes_are_limited_as_measured(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_bytes_per_caller=1000, max_bytes=1500), clock=clock)
    admit(breaker, ask(), [Subject(me, 400), Subject(me, 500)])
    assert refusal(breaker, ask(), [Subject(me, 101)]).limit == "max_bytes_per_caller"
    admit(breaker, ask(), [Subject(me, 100)])
    assert refusal(breaker, ask(BOB), [Subject(me, 501)]).limit == "max_bytes"


def test_what_cannot_be_refused_any_more_counts_against_the_next(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_kills_per_caller=3), clock=clock)
    admit(breaker, ask(), [Subject(me)])
    breaker.more(ask(), Everything(), [Subject(me)] * 50)
    assert breaker.state()["max_kills_per_caller"] == (51, 3)
    assert refusal(breaker, ask(), [Subject(me)]).retry_after == pytest.approx(60, abs=0.002)


def test_without_limits_nothing_is_counted(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(), clock=clock)
    admit(breaker, ask(), [Subject(me)] * 100_000)
    assert breaker.state() == {}


def test_callers_at_once_never_exceed_a_limit(me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_kills=100, max_kills_per_caller=10))
    admitted: list[str] = []
    start = threading.Barrier(32)

    def run(number: int) -> None:
        asked = ask(Caller("mtls", dns=(f"caller-{number % 16}",)))
        start.wait()
        for _ in range(50):
            try:
                admit(breaker, asked, [Subject(me)])
            except OverLimit:
                continue
            admitted.append(asked.caller.name)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 100
    assert max(admitted.count(name) for name in admitted) <= 10


# What comes back


def _ticks_after(now: float) -> None:
    lab.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > now + 0.05, "a few clock ticks")


def test_what_comes_back_is_killed_so_often_and_not_again() -> None:
    breaker = KillBreaker(Limits(max_kills_per_target=2))
    for generation in range(3):
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        with subprocess.Popen(["/bin/sleep", "100"]) as child, ProcessRef.open(child.pid) as ref:
            try:
                _ticks_after(now)
                if generation < 2:
                    for _ in range(5):  # who has not come back since is not counted again
                        admit(breaker, ask(), [Subject(ref)])
                else:
                    assert refusal(breaker, ask(), [Subject(ref)]).scope == "target"
                    assert refusal(breaker, ask(BOB), [Subject(ref)]).limit == "max_kills_per_target"
            finally:
                child.kill()
    assert breaker.state() == {"max_kills_per_target": (2, 2)}


def test_many_of_one_kind_that_were_there_before_are_one_target_once(clock: Clock, me: ProcessRef) -> None:
    clock.now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + MINUTE
    breaker = KillBreaker(Limits(max_kills_per_target=1), clock=clock)
    for _ in range(500):
        clock.now += 1_000_000
        admit(breaker, ask(), [Subject(me)])
    assert breaker.state() == {"max_kills_per_target": (1, 1)}


# Limits of the access policy


def grant(*limits: Limit) -> RuleGrant:
    rules = [CompiledRule(limit.rule, (), None, None, (Condition("users", (), lambda _: True),), limit) for limit in limits]
    return RuleGrant(tuple(rules), unrestricted=False, unlimited=False)


def test_a_rule_limits_each_of_its_callers(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(), clock=clock)
    rule = grant(Limit("preemptor", 2, None, 10))
    admit(breaker, ask(), [Subject(me)] * 2, rule)
    over = refusal(breaker, ask(), [Subject(me)], rule)
    assert (over.limit, over.scope) == ("policy_kills", "caller")
    assert over.retry_after == pytest.approx(10, abs=0.002)
    assert "preemptor" not in over.message
    admit(breaker, ask(BOB), [Subject(me)] * 2, rule)


def test_it_is_enough_to_be_within_one_rule(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(), clock=clock)
    rules = grant(Limit("small", 1, None, 10), Limit("large", 3, 1000, 60))
    for size in (1, 400, 500, 100):
        admit(breaker, ask(), [Subject(me, size)], rules)
    over = refusal(breaker, ask(), [Subject(me, 1)], rules)
    assert over.retry_after == pytest.approx(10, abs=0.002)
    clock.now += 10 * SECOND
    admit(breaker, ask(), [Subject(me, 10**9)], rules)


def test_a_rule_and_the_agents_own_limits_both_count(clock: Clock, me: ProcessRef) -> None:
    breaker = KillBreaker(Limits(max_kills=1), clock=clock)
    rule = grant(Limit("r", 5, None, 10))
    admit(breaker, ask(), [Subject(me)], rule)
    assert refusal(breaker, ask(), [Subject(me)], rule).limit == "max_kills"
    clock.now += MINUTE
    admit(breaker, ask(), [Subject(me)], rule)
