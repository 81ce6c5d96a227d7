"""The targets by their names, and the corpus of each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
#: Each has a module in targets/ and a folder in corpus/.
NAMES = tuple(sorted(file.stem for file in (HERE / "targets").glob("*.py")))


def target(name: str) -> Callable[[bytes], None]:
    """``one_input`` of a target: it raises where a promise does not hold."""
    found: Callable[[bytes], None] = import_module(f"fuzz.targets.{name}").one_input
    return found


def corpus(name: str) -> Path:
    """Inputs to begin with, and every one that broke something."""
    return HERE / "corpus" / name
