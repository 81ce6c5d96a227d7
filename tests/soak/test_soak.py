"""The observer finds a lying agent out, and does not find the real one out; how fast anything is, is not asserted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrelease import Client
from soak.answer import Answer, ProcessAnswer
from soak.health import drift, growth
from soak.judge import ALIVE, ANSWER, BYTES, EARLY, EXIT, HELD
from soak.lab_kinds import KINDS
from soak.observer import Observer, observing
from soak.options import parse
from soak.programs import compile_programs
from soak.report import markdown
from soak.results import criteria
from soak.scene import Scene, Slot, slot
from soak.watching import ByAgent, Kill, Killer, watch
from support import lab, patience

TESTS = Path(__file__).parents[1]
SEED = 4711

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Slot, Observer]]:
    """An observer and what victims need."""
    lab.need_root("making every victim, and observing it undisturbed")
    lab.need_mrelease()
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("soak")
        programs = compile_programs(folder)
        yield stack.enter_context(slot(0, programs, folder)), stack.enter_context(observing(programs.observer))


Watch = Callable[[str, Killer], Kill]


@pytest.fixture
def watched(room: tuple[Slot, Observer]) -> Watch:
    def one(kind: str, killer: Killer) -> Kill:
        kill = watch(KINDS[kind], SEED, *room, killer)
        if kill.unavailable:
            pytest.skip(kill.unavailable)
        assert not kill.error, kill.details["trace"]
        return kill

    return one


def faults(kill: Kill) -> set[str]:
    return {fault["what"] for fault in kill.faults}


class Believer:
    """Kills and says at once that the memory is back: it takes kill(2) for the proof."""

    def __init__(self, *, kills: bool = True) -> None:
        self._kills = kills

    def __call__(self, scene: Scene, rng: random.Random) -> Answer:
        del rng
        called = time.monotonic_ns()
        for pid in scene.pids if self._kills else ():
            os.kill(pid, signal.SIGKILL)
        processes = [ProcessAnswer(pid, "RELEASED", "RELEASE", scene.inside, 0, 0, "UNSPECIFIED", "", "") for pid in scene.pids]
        return Answer(called, time.monotonic_ns(), "RELEASED", scene.inside, processes)


class Twisting:
    """The real agent, whose answer is changed on its way."""

    def __init__(self, client: Client, twist: Callable[[Answer], Answer]) -> None:
        self._agent = ByAgent(client)
        self._twist = twist

    def __call__(self, scene: Scene, rng: random.Random) -> Answer:
        answer = self._agent(scene, rng)
        assert not answer.error
        return self._twist(answer)


@pytest.mark.parametrize(
    "kind", ["state D, FUSE", "state D, FUSE, leader gone", "frozen, v1", "traced", "pinned", "shares its memory (CLONE_VM)"]
)
def test_who_answers_before_the_memory_is_back_is_found_out(watched: Watch, kind: str) -> None:
    assert EARLY in faults(watched(kind, Believer()))


def test_rss_0_is_not_taken_for_the_proof(watched: Watch) -> None:
    kill = watched("inside exit_mm", Believer())
    assert kill.before == 0, "statm shows nothing"
    assert EARLY in faults(kill)


def test_a_group_of_which_somebody_lives_is_found_out(watched: Watch) -> None:
    assert {EARLY, ALIVE} <= faults(watched("cgroup", Believer(kills=False)))


def test_who_says_the_memory_was_back_earlier_than_it_was_is_found_out(watched: Watch, node: Client) -> None:
    def earlier(answer: Answer) -> Answer:
        return replace(answer, processes=[replace(each, back_at=answer.called - 1_000_000) for each in answer.processes])

    assert faults(watched("state D, FUSE", Twisting(node, earlier))) == {EARLY}


@pytest.mark.parametrize("factor", [0.95, 1.05])
def test_wrong_bytes_are_found_out(watched: Watch, node: Client, factor: float) -> None:
    kill = watched("live", Twisting(node, lambda answer: replace(answer, released=int(answer.released * factor))))
    assert faults(kill) == {BYTES}


@pytest.mark.parametrize("without", ["held_cause", "cause", "remedy"])
def test_memory_that_is_held_without_a_reason_is_found_out(watched: Watch, node: Client, without: str) -> None:
    nothing: dict[str, Any] = {without: {"held_cause": "UNSPECIFIED"}.get(without, "")}

    def bare(answer: Answer) -> Answer:
        return replace(answer, processes=[replace(each, **nothing) for each in answer.processes])

    assert faults(watched("shares its memory (CLONE_VM)", Twisting(node, bare))) == {HELD}


def test_memory_that_is_back_and_called_held_is_found_out(watched: Watch, node: Client) -> None:
    def held(answer: Answer) -> Answer:
        processes = [replace(each, outcome="HELD", held_cause="EXITING", cause="so", remedy="wait") for each in answer.processes]
        return replace(answer, verdict="HELD", released=0, processes=processes, answered=answer.answered + 5_000_000_000)

    assert HELD in faults(watched("live", Twisting(node, held)))


def test_an_exit_that_has_not_happened_is_found_out(watched: Watch, node: Client) -> None:
    def exited(answer: Answer) -> Answer:
        return replace(answer, processes=[replace(each, exit_at=answer.called) for each in answer.processes])

    assert EXIT in faults(watched("state D, FUSE", Twisting(node, exited)))


def test_no_answer_is_found_out(watched: Watch) -> None:
    def nothing(scene: Scene, rng: random.Random) -> Answer:
        return replace(Believer(kills=False)(scene, rng), error="Unreachable")

    assert faults(watched("live", nothing)) == {ANSWER}


@pytest.mark.parametrize("kind", ["live", "state D, FUSE", "inside exit_mm", "past exit_mm", "cgroup", "pod", "exit races the kill"])
def test_the_agent_is_not_found_out(watched: Watch, node: Client, kind: str) -> None:
    assert watched(kind, ByAgent(node)).faults == []


def test_a_hundred_kills_of_every_kind_are_answered_truly(tmp_path: Path) -> None:
    lab.need_root("making every victim")
    lab.need_mrelease()
    log, out = tmp_path / "log", tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))}
    command = [
        sys.executable,
        "-m",
        "soak",
        "--kills",
        "100",
        "--phase",
        "8",
        "--slots",
        "4",
        "--rate",
        "40",
        "--log",
        str(log),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110 * patience.FACTOR, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    kills = [json.loads(line) for line in log.read_text().splitlines()]
    compared = [kill for kill in kills if kill["verdict"]]
    assert len(compared) >= 100, said
    assert not any(kill["faults"] for kill in kills), said
    assert all(kill["samples"] for kill in compared)
    page = (out / "soak.md").read_text()
    assert f"{len(compared):,} answers" in page
    assert json.loads((out / "soak.json").read_text())["faults"] == {}


def result(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "run": {"command": "make soak", "date": "2026-01-01", "machine": {"CPU": "none"}},
        "kills": 1,
        "processes": 1,
        "samples": 100,
        "seconds": 60.0,
        "load": {"least": 0.0, "median": 0.0, "most": 0.0},
        "gaps_ms": {"p50": 1.0, "p99": 2.0},
        "allowed": {"charge_bytes": 1 << 20, "process_bytes": 1 << 18, "clock_ns": 100_000, "cpus": 2},
        "faults": {},
        "flat": {"rss": 0.0, "fds": 0.0, "threads": 0.0, "took": 1.0, "ping": 1.0},
        "kinds": {},
        "faulty": [],
    }
    return made | changes


def test_what_was_wrong_is_on_the_page() -> None:
    faulty = {"kind": "live", "seed": 7, "verdict": "RELEASED", "faults": [{"what": EARLY, "text": "5 bytes by statm"}]}
    found = result(faults={EARLY: 1}, faulty=[faulty])
    assert [each.met for each in criteria(found)].count(False) == 1
    assert "- live, seed 7, RELEASED: says that memory is back before it is: 5 bytes by statm" in markdown(found)
    assert all(each.met for each in criteria(result()))


@pytest.mark.parametrize("changed", [{"rss": 0.1}, {"fds": 5.0}, {"threads": 3.0}, {"took": 2.0}, {"ping": 2.0}])
def test_an_agent_that_grows_or_slows_down_does_not_hold(changed: dict[str, float]) -> None:
    flat = result()["flat"] | changed
    assert [each.met for each in criteria(result(flat=flat))].count(False) == 1


def test_growth_and_drift() -> None:
    times = [float(number) for number in range(100)]
    assert growth(times, [5.0] * 100) == 0
    assert growth(times, [2 * at for at in times]) == pytest.approx(198)
    assert drift(times, [1.0] * 50 + [3.0] * 50) == 3


def test_a_trial_is_not_written_into_the_documentation() -> None:
    assert parse([]).out is None
    assert parse(["--kills", "100"]).out is None
    assert parse(["--for", "1h"]).out == TESTS.parent / "docs"
    with pytest.raises(SystemExit):
        parse(["--only", "no such victim"])
