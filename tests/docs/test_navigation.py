"""A page of the documentation that nobody would find is noticed: docs/README.md is the index, GitHub's and the site's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.markdown import ROOT, repository


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "website.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in repository():
        if name.suffix == ".md" or name.parts[0] == "scripts":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_index_leads_to_every_page() -> None:
    assert check(ROOT).returncode == 0, check(ROOT).stderr


def test_a_page_without_a_bullet_in_the_index_is_noticed(copy: Path) -> None:
    (copy / "docs" / "forgotten.md").write_text("# Forgotten\n")
    found = check(copy)
    assert found.returncode == 1
    assert "docs/forgotten.md" in found.stderr
    index = copy / "docs" / "README.md"
    index.write_text(f"{index.read_text()}- [Forgotten](forgotten.md)\n")
    assert check(copy).returncode == 0


def test_a_page_beside_an_index_of_its_folder_needs_none(copy: Path) -> None:
    (copy / "docs" / "explanation" / "decisions" / "99-another.md").write_text("# Another\n")
    assert check(copy).returncode == 0
