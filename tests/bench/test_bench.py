"""`make bench` runs, says what was measured, merges, judges and leaves nothing; how fast it was is not asserted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from bench.contenders import AGENT, KILL, Account
from bench.goals import goals
from bench.judge import wrong
from bench.options import NAMES, parse
from bench.results import CaseResult, Measurement, Results, Run, load, save
from mrelease.demo.observe import Track
from support.lab import until

TESTS = Path(__file__).parents[1]
MIB = 1 << 20
RUN = Run("2026-01-01", "make bench", {"CPU": "none"})

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")


def bench(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_of(pid: int) -> list[str]:
    """What a bench is known to make, by the names that carry its process id."""
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    folders = [str(path) for mount in mounts for path in Path(mount).glob(f"mrelease-bench-{pid}*")]
    children = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if f"mrelease-bench-{pid}-" in readable(path.read_bytes) or f"-p\0{pid}\0" in readable(path.read_bytes)
    ]
    return [*folders, *children]


def readable(read: Callable[[], bytes]) -> str:
    try:
        return read().decode(errors="replace")
    except OSError:
        return ""


@needs_compiler
def test_a_trial_writes_page_data_and_pictures_and_merges_the_next_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for names in ("idle,rpc", "stopped"):
        with bench("--quick", "--only", names, "--by", "kill(2),agent", "--out", str(tmp_path)) as running:
            out, errors = running.communicate(timeout=110)
        assert running.returncode == 0, errors
        assert left_of(running.pid) == []
    data = json.loads((tmp_path / "performance.json").read_text())
    assert [case["name"] for case in data["cases"]] == ["stopped", "idle"], "in the order of the page, whenever they were measured"
    for case in data["cases"]:
        measured = {measurement["contender"]: measurement for measurement in case["measurements"]}
        assert set(measured) == {KILL, AGENT}
        for measurement in measured.values():
            assert measurement["held_bytes"] >= case["size_bytes"]
            assert measurement["back_seconds"] is not None
            assert measurement["samples"]
        assert measured[AGENT]["verdict"] in ("RELEASED", "EXITED")
    assert data["rpc"]["call"]["calls"] == 5
    page = (tmp_path / "performance.md").read_text()
    for picture in ("medians", "stopped", "idle", "rpc"):
        assert (tmp_path / "img" / f"bench-{picture}.svg").stat().st_size < 64 * 1024
        assert f"](img/bench-{picture}.svg)" in page
    assert "| agent | 1 | " in page
    assert "idle node, 2 GiB: agent / kill(2)" in out


@needs_compiler
def test_trust_many_callers_and_stuck_reaps_are_measured() -> None:
    with bench("--quick", "--only", "guarded,callers,stuck") as running:
        out, errors = running.communicate(timeout=110)
    assert running.returncode == 0, errors
    assert "RPC by mutual TLS with policy and audit / without, p50" in out
    assert "4 callers: kills / Health Checks a second" in out
    assert os.geteuid() != 0 or "Health Check with 2 reaps stuck" in out
    assert left_of(running.pid) == []


@needs_compiler
@pytest.mark.skipif(shutil.which("ghz") is None, reason="ghz is not installed: go install github.com/bojand/ghz/cmd/ghz@v0.93.0")
def test_the_load_of_another_client_is_measured_beside_the_sdk(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with bench("--quick", "--only", "ghz", "--out", str(tmp_path)) as running:
        _, errors = running.communicate(timeout=110)
    assert running.returncode == 0, errors
    rows = json.loads((tmp_path / "performance.json").read_text())["ghz"]["rows"]
    ways, methods = ("Unix socket", "mutual TLS, policy"), ("GetNode", "KillAndRelease")
    assert [(row["way"], row["method"]) for row in rows] == [(way, method) for way in ways for method in methods]
    assert all(row[client]["latency"]["calls"] == 20 and row[client]["rate"] > 0 for row in rows for client in ("ghz", "sdk"))
    assert "### From Go" in (tmp_path / "performance.md").read_text()
    assert left_of(running.pid) == []


@needs_compiler
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    with interrupted_after_a_victim(signal.SIGINT, "--out", str(tmp_path)) as (pid, status, said):
        assert status == 128 + signal.SIGINT, said
        assert "stopped and cleaned up" in said
        assert left_of(pid) == []
    assert not (tmp_path / "performance.json").exists()


@needs_compiler
def test_what_a_killed_bench_left_is_removed_by_the_next_one() -> None:
    with interrupted_after_a_victim(signal.SIGKILL) as (pid, status, _):
        assert status == -signal.SIGKILL
        with bench("--quick", "--only", "stopped", "--by", "kill(2)") as following:
            _, errors = following.communicate(timeout=110)
        assert following.returncode == 0, errors
        assert f"mrelease-bench-{pid}-" in errors
        assert left_of(following.pid) == []
        until(lambda: left_of(pid) == [], "the agent of the bench that was killed ends")


@contextlib.contextmanager
def interrupted_after_a_victim(number: signal.Signals, *arguments: str) -> Generator[tuple[int, int, str], None, None]:
    """A bench that gets a signal when it has measured one victim of two: its pid, exit status, and what it said after that."""
    with bench("--quick", "--only", "stopped,sched-idle", "--by", "kill(2),agent", *arguments) as running:
        assert running.stderr is not None
        heard = iter(running.stderr)
        assert any(line.startswith("stopped 1/1") for line in heard)
        running.send_signal(number)
        said = "".join(heard)
    yield running.pid, running.returncode, said


def measurement(contender: str, number: int, back: float | None, **more: object) -> Measurement:
    values: dict[str, object] = {"left_bytes": 0, "exit_seconds": back, "own_release_seconds": None, "call_seconds": None}
    values |= {"verdict": "", "boost": "", "wrong": "", "samples": [(0.001 * n, 100 * MIB) for n in range(1000)], **more}
    return Measurement(contender=contender, round=number, held_bytes=100 * MIB, back_seconds=back, **values)  # type: ignore[arg-type]


def starved(*measurements: Measurement) -> Results:
    return Results(cases=[CaseResult("starved", RUN, 1 << 30, 15.0, 3, measurements=list(measurements))])


def test_results_survive_their_file_and_a_merge_replaces_a_case_alone(tmp_path: Path) -> None:
    old = starved(measurement(KILL, 0, None).thinned())
    old.cases.append(CaseResult("idle", RUN, 1, 1.0, 1, skipped="no reason"))
    file = tmp_path / "performance.json"
    save(old, file)
    assert load(file) == old
    newer = starved(measurement(AGENT, 0, 0.1).thinned())
    newer.cases[0].run = Run("2026-02-02", "make bench", {})
    found = load(file)
    found.merge(newer, NAMES)
    assert [(case.name, case.run.date) for case in found.cases] == [("starved", "2026-02-02"), ("idle", "2026-01-01")]
    assert max(len(m.samples) for m in old.cases[0].measurements) <= 41
    file.write_text('{"schema": 1}')
    assert load(file) == Results(), "of an older schema nothing is kept"


def test_what_never_came_back_counts_as_more_than_the_limit() -> None:
    found = starved(*(measurement(KILL, n, None) for n in range(2)), *(measurement(AGENT, n, 0.1) for n in range(3)))
    first = next(goal for goal in goals(found) if "kill(2) / agent, memory back" in goal.what)
    assert (first.found, first.met) == ("> 150", True)
    slow = starved(measurement(KILL, 0, 5.0), measurement(AGENT, 0, None))
    first = next(goal for goal in goals(slow) if "kill(2) / agent, memory back" in goal.what)
    assert (first.found, first.met) == ("agent not within 15 s", False)


def test_a_wrong_verdict_is_a_goal_that_is_not_met() -> None:
    found = starved(measurement(KILL, 0, None), measurement(AGENT, 0, 0.1, wrong="says RELEASED while 90 of 100 MiB are held"))
    (verdicts,) = [goal for goal in goals(found) if goal.what.startswith("verdicts")]
    assert (verdicts.found, verdicts.met) == ("1 of 1", False)


def looks(*held: int) -> Iterator[tuple[float, int]]:
    return ((0.1 * number, mib * MIB) for number, mib in enumerate(held, 1))


@pytest.mark.parametrize(
    ("verdict", "released", "held", "exited", "fault"),
    [
        ("RELEASED", 100, (100, 0, 0), None, ""),
        ("EXITED", 100, (100, 50, 50), 0.25, ""),
        ("RELEASED", 100, (100, 90, 90), None, "while 90 of 100 MiB are held"),
        ("EXITED", 20, (100, 0, 0), 0.15, "20 MiB back where 100 of 100 MiB are"),
        ("PARTIAL", 50, (100, 50, 50), None, ""),
        ("PARTIAL", 50, (100, 0, 0), None, "says PARTIAL while 0"),
        ("HELD", 0, (100, 100, 100), None, ""),
        ("HELD", 0, (100, 0, 0), None, "says HELD while 0"),
        ("HELD", 90, (100, 100, 100), None, "90 MiB back where 0 of 100 MiB are"),
        ("UNKNOWN", 0, (100, 0, 0), None, "gave no verdict"),
        ("failed: no agent", None, (100, 100, 100), None, "gave no verdict"),
    ],
)
def test_verdicts_are_compared_with_what_the_observer_saw(
    verdict: str, released: int | None, held: tuple[int, ...], exited: float | None, fault: str
) -> None:
    track = Track(before=100 * MIB, samples=list(looks(*held)), exit_seconds=exited)
    account = Account(verdict=verdict, released_bytes=None if released is None else released * MIB)
    said = wrong(account, track, answered=0.26)
    assert fault in said if fault else said == ""


def test_a_trial_is_not_written_into_the_documentation() -> None:
    assert parse(["--quick"]).out is None
    assert parse(["--only", "idle,crowd", "--rounds", "2"]).out is None
    assert parse(["--only", "idle,crowd"]).out == TESTS.parent / "docs"
    with pytest.raises(SystemExit):
        parse(["--only", "idel"])


def test_the_whole_bench_is_said_to_take_25_minutes_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    (total,) = [int(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("  together")]
    assert total <= 25 * 60
