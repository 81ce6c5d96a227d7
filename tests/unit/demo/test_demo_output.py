"""What the demo says: table, sentence, data, bars, picture, and why it does not start."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest

from mrelease import NodeRef, Outcome, ReleaseResult, Verdict
from mrelease.demo import picture, report, run, views
from mrelease.demo.duel import Duel, Machine
from mrelease.demo.observe import Track
from support.sdk_samples import process_result, release_result

GIB = 1 << 30
MACHINE = Machine(kernel="6.1.0", architecture="x86_64", cpus=2, memory_bytes=8 * GIB, python="3.11.7")


def track(*looks: tuple[float, int, bool]) -> Track:
    seen = Track(before=GIB)
    for seconds, held, exited in looks:
        seen.add(seconds, held, exited=exited)
    return seen


HOLDS = track((0.01, GIB, False), (19.9, GIB, False))
GIVES = track((0.01, GIB, False), (0.1, 0, False), (2.6, 0, True))
SLOW = track((1.0, GIB, False), (2.0, 0, True))


def result(verdict: Verdict = Verdict.RELEASED) -> ReleaseResult:
    process = process_result(
        12,
        command="python3",
        outcome=Outcome(int(verdict)),
        memory_before=None,
        memory_after=None,
        release_duration=timedelta(milliseconds=98),
        exit_duration=None,
    )
    return release_result(process, verdict=verdict, node=NodeRef("n", "b"))


def duel(killed: Track, released: Track, *, available: bool = True, answer: ReleaseResult | None = None, failure: str = "") -> Duel:
    return Duel(
        size_bytes=GIB,
        limit_seconds=20,
        starved_by="SCHED_IDLE",
        spinners=4,
        observed_by="its charge",
        release_available=available,
        pids=(11, 12),
        killed=killed,
        released=released,
        call_seconds=0.1,
        result=answer,
        failure=failure,
        notes=("a note",),
        machine=MACHINE,
    )


def test_the_table_has_a_row_for_each_way_to_kill() -> None:
    text = report.text(duel(HOLDS, GIVES, answer=result()))
    killed, released = (line.split("  ") for line in text.splitlines() if line.startswith(views.LABELS))
    assert [cell.strip() for cell in killed if cell.strip()] == ["kill(2) alone", "> 20 s", "> 20 s", "1.00 GiB", "-", "-"]
    assert [cell.strip() for cell in released if cell.strip()] == ["mrelease agent", "100 ms", "2.60 s", "0 B", "1.00 GiB", "RELEASED"]
    assert "memory back more than 200 x sooner through the agent: kill(2) still held 1.00 GiB after 20 s" in text
    assert "observed by its charge" in text
    assert "a note" in text


@pytest.mark.parametrize(
    ("fought", "sentence"),
    [
        (duel(SLOW, GIVES, answer=result()), "memory back 20 x sooner through the agent"),
        (duel(HOLDS, HOLDS, answer=result(Verdict.HELD)), "neither gave its memory back within 20 s"),
        (duel(SLOW, HOLDS, answer=result(Verdict.HELD)), "kill(2) gave its memory back, the agent did not"),
        (duel(SLOW, SLOW, available=False, answer=result(Verdict.EXITED)), "no difference is to be expected without process_mrelease(2)"),
        (duel(SLOW, HOLDS, failure="no agent"), "the agent's call failed: no agent"),
    ],
)
def test_one_sentence_says_how_it_ended(fought: Duel, sentence: str) -> None:
    assert report.ratio(fought) == sentence


def test_data_is_json_and_says_null_for_what_did_not_happen() -> None:
    data = json.loads(json.dumps(report.data(duel(HOLDS, GIVES, answer=result()))))
    kill, agent = data["victims"]
    assert (kill["back_seconds"], kill["exit_seconds"], kill["held_at_end_bytes"]) == (None, None, GIB)
    assert (agent["back_seconds"], agent["exit_seconds"], agent["held_at_end_bytes"]) == (0.1, 2.6, 0)
    assert agent["samples"] == [[0.01, GIB], [0.1, 0], [2.6, 0]]
    assert data["agent"]["released_bytes"] == GIB
    assert data["agent"]["release_seconds"] == 0.098
    assert data["ratio"] == pytest.approx(200)
    assert data["ratio_is_lower_bound"] is True


def test_bars_show_what_is_held() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), force_terminal=True, width=100)
    with views.LiveView(console) as view:
        view.step("setting up")
        view.begin(GIB, [HOLDS, GIVES])
        view.update(3.0)
    shown = console.file.getvalue()
    assert "setting up" in shown
    assert "1.00 GiB" in shown
    assert "back after 100 ms" in shown


def test_plain_lines_show_what_is_held(capsys: pytest.CaptureFixture[str]) -> None:
    view = views.PlainView()
    view.begin(GIB, [HOLDS, GIVES])
    for seconds in (0.1, 0.3, 0.4, 1.2):
        view.update(seconds)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1] == "after  1.2 s still held: kill(2) alone 1.00 GiB, mrelease agent 0 B"


@pytest.mark.parametrize("name", ["demo.svg", "demo.png"])
def test_the_same_duel_gives_the_same_picture(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / "a", tmp_path / "b"]
    for folder in files:
        folder.mkdir()
        picture.draw(duel(HOLDS, GIVES, answer=result()), str(folder / name))
    first, second = ((folder / name).read_bytes() for folder in files)
    assert first == second
    assert len(first) > 1000


@pytest.mark.parametrize(
    ("size", "limit", "png", "message"),
    [
        (1 << 19, 20, None, "at least 1 MiB"),
        (GIB, 0, None, "more than 0 s"),
        (GIB, 61, None, "at most 60 s"),
        (GIB, 20, "picture.gif", "must end in .png, .svg or .pdf"),
        (GIB, 20, "no/such/folder/x.png", "no such directory"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    size: int, limit: float, png: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(size_bytes=size, limit_seconds=limit, as_json=False, png=png) == 2
    assert message in capsys.readouterr().err


def test_without_matplotlib_a_picture_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(picture, "is_available", lambda: False)
    assert run(size_bytes=GIB, limit_seconds=20, as_json=False, png=str(tmp_path / "x.png")) == 1
    said = capsys.readouterr()
    assert said.err == "mrelease demo: a picture needs matplotlib: pip install 'mrelease[plot]'\n"
    assert said.out == ""
