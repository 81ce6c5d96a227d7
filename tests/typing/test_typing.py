"""The types of the SDK as its users' checkers see them: every assertion and every expected error of sdk.py holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = "tests/typing/sdk.py"
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("checker", [["mypy", "--strict", "--warn-unused-ignores"], ["pyright"]], ids=lambda c: c[0])
def test_users_see_these_types(checker: list[str]) -> None:
    tool = shutil.which(checker[0], path=str(BIN))
    if tool is None:
        pytest.skip(f"{checker[0]} is not installed: make test installs it")

    done = subprocess.run([tool, *checker[1:], SAMPLE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
