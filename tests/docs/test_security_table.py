"""docs/security.md names a test for each attack, and each of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import NamedTuple

from support.markdown import ROOT

PAGE = ROOT / "docs" / "security.md"
LEAST_ROWS = 40


class Row(NamedTuple):
    """One attack."""

    attack: str
    happens: str
    test: str


def rows() -> list[Row]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| attack |")]
    return [Row(*(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])) for line in lines]


@cache
def names_in(path: str) -> frozenset[str]:
    """Names of the tests of a file, those of classes with the class."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {node.name for node in tree.body if isinstance(node, functions)}
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    names |= {f"{group.name}::{node.name}" for group in classes for node in group.body if isinstance(node, functions)}
    return frozenset(name for name in names if name.rpartition("::")[2].startswith("test_"))


def exists(test: str) -> bool:
    path, _, name = test.strip("`").partition("::")
    return name in names_in(path)


def test_there_are_enough_attacks() -> None:
    assert len(rows()) >= LEAST_ROWS


def test_every_row_is_whole() -> None:
    assert [row for row in rows() if not all(row) or not re.fullmatch(r"`tests/[\w/]+\.py::[\w:]+`", row.test)] == []


def test_every_named_test_exists() -> None:
    assert [row.test for row in rows() if not exists(row.test)] == []


def test_no_attack_is_there_twice() -> None:
    attacks = [row.attack.lower() for row in rows()]
    assert sorted({attack for attack in attacks if attacks.count(attack) > 1}) == []


def test_a_test_that_is_not_there_would_be_noticed() -> None:
    assert not exists("`tests/rpc/test_hostile.py::test_of_a_name_that_nobody_wrote`")
    assert not exists("`tests/rpc/test_of_no_file.py::test_pids_out_of_range`")
