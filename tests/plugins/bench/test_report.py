"""The page of the plugins' bench says what was measured, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from plugins.bench.report import BEGIN, END, load, placed, table, write
from support.markdown import ROOT

DOCS = ROOT / "docs"


def measured(contender: str, back: float | None, state: str = "DEAD", limit: float = 30.0) -> dict[str, Any]:
    keys = ("situation", "contender", "back_seconds", "state", "usable", "limit")
    return dict(zip(keys, ("a | b", contender, back, state, "yes", limit), strict=True))


def one(*rows: dict[str, Any]) -> dict[str, Any]:
    run = {"rounds": 3, "date": "2026-11-23", "machine": {"kernel": "Linux"}}
    return {"name": "Ray", "version": "2.60.0", "run": run, "measurements": list(rows)}


def test_what_never_came_back_is_not_a_number() -> None:
    assert "| alone | not in 30 s | DEAD | yes |" in table(one(*[measured("alone", None)] * 3))


def test_a_median_stands_with_the_least_and_the_most_and_with_never() -> None:
    assert "| 200 ms (100 ms to 1.5 s) |" in table(one(*[measured("with", seconds) for seconds in (1.5, 0.1, 0.2)]))
    assert "| 200 ms (100 ms to not in 30 s) |" in table(one(*[measured("with", seconds) for seconds in (None, 0.1, 0.2)]))


def test_what_was_not_always_said_is_counted() -> None:
    found = table(one(*[measured("alone", None, state) for state in ("DEAD", "ALIVE", "DEAD")]))
    assert "| DEAD (2 of 3); ALIVE (1 of 3) |" in found


def test_a_bar_in_a_situation_does_not_end_its_cell() -> None:
    assert "| a \\| b |" in table(one(measured("alone", None)))


def test_the_table_is_placed_between_its_lines_again_and_again() -> None:
    page = f"# Ray\n\n{BEGIN}\n{END}\n\nend\n"
    placed_once = placed(page, one(measured("alone", None)))
    assert placed_once is not None
    assert placed_once.startswith(f"# Ray\n\n{BEGIN}\n")
    assert placed_once.endswith(f"{END}\n\nend\n")
    assert "Ray 2.60.0, 3 rounds" in placed_once
    assert placed(placed_once, one(measured("alone", None))) == placed_once
    assert placed("# Ray\n", one(measured("alone", None))) is None


def test_committed_pages_are_those_of_the_committed_numbers(tmp_path: Path) -> None:
    results = load(DOCS)
    if not results:
        pytest.fail("docs/plugins/performance.json is missing: make bench-plugins")
    shutil.copytree(DOCS / "plugins", tmp_path / "plugins")
    for path in write(results, tmp_path):
        if path.parent.name == "plugins" and path.suffix == ".md":  # of the page of everything tests/bench/test_page.py says it
            assert path.read_text() == (DOCS / path.relative_to(tmp_path)).read_text(), f"{path.name}: make bench-plugins writes it"
