"""The tests beside this file exhaust memory, mount and swap: only inside a machine of `make test-vm`."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Client
from support.agent import Agent, running_agent

_HERE = Path(__file__).parent
#: Rather one of the children than this process, and no child is protected, as one with -1000 is.
_SPARED = "-900"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "VM_KERNEL" not in os.environ:
        mine = [item for item in items if item.path.is_relative_to(_HERE)]
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]


@pytest.fixture(scope="module")
def spared() -> Generator[None, None, None]:
    """This process, and what it starts, is the last that the OOM killer takes."""
    path = Path("/proc/self/oom_score_adj")
    before = path.read_text()
    path.write_text(_SPARED)
    yield
    path.write_text(before)


@pytest.fixture(scope="module")
def agent(spared: None, tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent, None, None]:
    """An agent that the OOM killer spares."""
    with running_agent(tmp_path_factory.mktemp("agent") / "run", "--max-timeout", "30m", "--default-timeout", "5m") as started:
        yield started


@pytest.fixture
def node(agent: Agent) -> Generator[Client, None, None]:
    """A client of that agent."""
    with agent.client() as client:
        yield client
