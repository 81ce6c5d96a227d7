"""The reference pages are what their source says, and say so when they are not."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrelease import Feature, HeldCause, Outcome, Proof, UnreleasedCause, Verdict
from mrelease.v1 import error_reason_pb2
from mrelease_agent.reaping.outcome import ANSWERS
from support.markdown import ROOT

REFERENCE = ROOT / "docs" / "reference"


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "scripts" / "reference.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_reference_pages_are_up_to_date() -> None:
    assert check(ROOT).returncode == 0, check(ROOT).stderr


def test_an_edited_page_is_noticed(tmp_path: Path) -> None:
    for name in ("scripts", "proto", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "reference" / "outcomes.md"
    page.write_text(page.read_text().replace("RELEASED", "FREED", 1))
    found = check(tmp_path)
    assert found.returncode == 1
    assert "outcomes.md" in found.stderr


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("outcomes.md", [kind.name for enum in (Outcome, Verdict, Proof, HeldCause, UnreleasedCause) for kind in enum if kind]),
        ("outcomes.md", [errno.errorcode[number] for number in ANSWERS if number]),
        ("errors.md", [name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.keys()[1:]]),
    ],
    ids=["outcomes", "errnos", "reasons"],
)
def test_every_name_of_the_contract_has_its_row(page: str, names: list[str]) -> None:
    text = (REFERENCE / page).read_text()
    assert [name for name in names if f"\n| `{name}` |" not in text] == []


def test_what_an_agent_can_do_is_explained_to_who_runs_one() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [feature.name for feature in Feature if feature and feature.name not in readme] == []
