"""docs/least-privilege.md has the tables of what the tests measure."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.markdown import ROOT


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "least_privilege.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_tables_are_up_to_date() -> None:
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_an_edited_table_is_noticed(tmp_path: Path) -> None:
    for name in ("scripts", "docs", "tests/support"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "least-privilege.md"
    page.write_text(page.read_text().replace("| `CAP_KILL` | other users' processes |", "| `CAP_KILL` | nothing |"))
    assert check(tmp_path).returncode == 1
