"""What `make test-vm` leaves out is there and has a reason, and what it reports is what happened in the machine."""

from __future__ import annotations

import json
from pathlib import Path

from support.markdown import ROOT
from vm import deselect
from vm.kernels import SUITES
from vm.results import Results


def test_everything_left_out_exists() -> None:
    for entry in deselect.entries():
        file, _, name = entry.test.partition("::")
        function = name.partition("[")[0]
        assert (ROOT / file).is_file(), entry
        assert not name or f"def {function}" in (ROOT / file).read_text(), entry
        assert entry.kernels is None or entry.kernels <= SUITES.keys(), entry


def test_a_test_is_left_out_by_how_its_id_begins() -> None:
    entry = deselect.entries()[0]
    kernel = next(iter(entry.kernels or SUITES))
    assert deselect.left_out(f"{entry.test}[one]", kernel) == entry.reason
    assert deselect.left_out("tests/kernel/test_rows.py::test_live", kernel) is None


def test_results_are_counted_while_they_are_written(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"test": "a", "outcome": "left out", "why": "slow"},
        {"total": 4},
        {"begun": "b"},
        {"test": "b", "outcome": "passed", "why": "", "seconds": 0.1},
        {"test": "c", "outcome": "skipped", "why": "no swap", "seconds": 0.0},
        {"test": "d", "outcome": "failed", "why": "assert 1 == 2", "seconds": 0.0},
        {"begun": "e"},
    ]
    file = tmp_path / "results"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"test": "e", "outc')
    found = Results.read(file)
    assert found.counts() == "1 passed, 1 skipped, 1 left out, 1 failed"
    assert (found.done, found.total, found.begun) == (3, 4, "e")
    assert found.details() == ["skipped 1: no swap", "left out 1: slow", "FAILED d", "    assert 1 == 2"]


def test_nothing_is_found_where_nothing_was_written(tmp_path: Path) -> None:
    assert Results.read(tmp_path / "none").counts() == "0 passed, 0 skipped, 0 left out, 0 failed"
