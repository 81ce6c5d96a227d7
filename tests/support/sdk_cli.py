"""Runs the command line in this process, as its entry point does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mrelease.cli.main import run


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Lines of stdout without the blanks at their ends."""
        return [line.rstrip() for line in self.out.splitlines()]

    @property
    def data(self) -> Any:
        """Stdout as JSON."""
        return json.loads(self.out)


Cli = Callable[..., Done]


def cli_in(capsys: pytest.CaptureFixture[str]) -> Cli:
    """A function that runs ``mrelease`` with its arguments."""

    def cli(*arguments: str) -> Done:
        code = run(arguments)
        captured = capsys.readouterr()
        return Done(int(code), captured.out, captured.err)

    return cli
