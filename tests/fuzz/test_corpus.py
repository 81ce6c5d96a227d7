"""Every input that a fuzzer began with, and every one that broke something once, on any machine: `make fuzz` looks for more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.names import HERE, NAMES, corpus, target
from support.markdown import ROOT

MOST_BYTES = 64 * 1024


@pytest.mark.parametrize("name", NAMES)
def test_known_inputs_break_nothing(name: str) -> None:
    one_input = target(name)
    inputs = sorted(file for file in corpus(name).iterdir())
    assert inputs
    one_input(b"")
    for file in inputs:
        print(file.relative_to(ROOT))  # the last one, where it fails
        one_input(file.read_bytes())


def test_every_corpus_is_of_a_target_and_small() -> None:
    assert {folder.name for folder in (HERE / "corpus").iterdir()} == set(NAMES)
    sizes = {name: sum(file.stat().st_size for file in corpus(name).iterdir()) for name in NAMES}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "fuzz", "--only", "policy,polisy"], cwd=HERE.parent, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert "no target: polisy" in asked.stderr
