"""The page and the picture of a fleet: what they say follows from the numbers, and a goal that is missed is said to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.fleet import Call, Odd, Results, Size
from bench.fleet_report import draw, goals, section


def call(seconds: float, mib: int) -> Call:
    return Call(seconds, seconds * 1.5, seconds / 2, seconds / 4, mib << 20)


def size(agents: int, *, tls: bool) -> Size:
    return Size(agents, tls, 1000, call(agents / 500, 40 + agents // 10), call(agents / 2000, 40), call(agents / 1000, 40 + agents // 10))


def results() -> Results:
    made = Results("python -m bench.fleet", "2026-11-23", {"load before": "0.10"}, 5)
    made.sizes = [size(agents, tls=tls) for tls in (False, True) for agents in (10, 100, 1000)]
    made.memory = {"256": [60 << 20] * 8, "1000": [100 << 20] * 8}
    made.odd = Odd(1000, 1.5, 10.0, {"answered": 998, "DeadlineExceeded": 1, "NodeMismatch": 1})
    return made


def test_the_section_says_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(results(), tmp_path / "img")
    draw(results(), tmp_path / "again")
    picture = (tmp_path / "img/fleet.svg").read_text()
    assert picture.startswith("<?xml")
    assert (tmp_path / "again/fleet.svg").read_text() == picture, "the same numbers, the same picture"
    text = section(results())
    # 2 ms an agent, half of it the caller's CPU; 0.1 MiB a connection over 40 MiB.
    assert "10,000 agents need 20 s here, and 10 s where the agents have CPUs of their own" in text
    assert "102 KiB for each connection kept, so 1041 MiB for 10,000" in text


def test_a_goal_that_is_missed_is_said_to_be() -> None:
    assert all(goal.met for goal in goals(results()))
    slow, grown, lost = results(), results(), results()
    slow.sizes[-1] = replace(slow.sizes[-1], first=call(4.0, 140))
    grown.memory["256"][-1] = 70 << 20
    lost.odd = Odd(1000, 1.5, 10.0, {"answered": 997, "DeadlineExceeded": 2, "NodeMismatch": 1})
    for worse in (slow, grown, lost):
        assert [goal.met for goal in goals(worse)].count(False) == 1
