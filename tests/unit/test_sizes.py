"""No file of the source or of its tests is longer than somebody reads at once."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LONGEST = 400
FOLDERS = ("client", "server", "controller", "scripts", "tests", "examples", "deploy")


def sources() -> list[Path]:
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if not {"v1", "gen", "build", "node_modules"} & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_somebody_reads_at_once(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for path in sources()
        if path.is_relative_to(ROOT / folder)
    }
    assert lengths, f"{folder} has no Python: mend FOLDERS"
    too_long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not too_long, f"of at most {LONGEST} lines, split by what they are about: {too_long}"
