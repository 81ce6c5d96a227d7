"""`make bench` runs and writes a page that says what was measured; how fast it was is not asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def test_a_quick_bench_writes_page_data_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--case", "idle", "--case", "starved", "--case", "rpc", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "performance.json").read_text())
    assert [case["name"] for case in data["cases"]] == ["starved", "idle"]
    for case in data["cases"]:
        measured = {measurement["contender"]: measurement for measurement in case["measurements"]}
        assert {"kill(2)", "agent"} <= set(measured)
        for measurement in measured.values():
            assert measurement["held_bytes"] >= case["size_bytes"]
            assert measurement["samples"]
    assert all(measurement["back_seconds"] is not None for measurement in data["cases"][1]["measurements"])
    assert data["rpc"]["calls"] == 5
    page = (tmp_path / "performance.md").read_text()
    for picture in ("medians", "starved", "idle"):
        assert (tmp_path / "img" / f"bench-{picture}.svg").is_file()
        assert f"](img/bench-{picture}.svg)" in page
    assert "| agent | " in page
    assert "idle node: agent / kill(2)" in done.stdout
