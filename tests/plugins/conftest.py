"""What the tests with real orchestrators share. They have the mark `plugins`: `make test-plugins` runs them, `make test` does not."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from support import lab
from support.agent import Agent, running_agent
from support.lab import HangFs


@pytest.fixture
def hanging(process_mrelease: None) -> Generator[HangFs]:
    """A file system whose file (`path`) is never read to the end, until the test ends or calls `let_go`: for workers that are root."""
    with lab.hang_fs("READ") as fs:
        yield fs


@pytest.fixture(scope="session")
def plugin_agent(tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent]:
    """An agent that has loaded every kind of target that this package brings."""
    lab.need_root("killing what belongs to others")
    with running_agent(tmp_path_factory.mktemp("plugins") / "run", "--target-plugins", "slurm", "--max-timeout", "10m") as started:
        yield started
