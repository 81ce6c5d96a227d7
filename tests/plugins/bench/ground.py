"""What all cases of an orchestrator stand on: the orchestrator itself, started once, and an agent."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Generic, TypeVar

from support.agent import Agent, running_agent

T = TypeVar("T")


class Ground(Generic[T]):
    """``start`` starts the orchestrator in a folder. ``system`` and ``agent`` are there while somebody is in ``entered()``."""

    system: T
    agent: Agent

    def __init__(self, name: str, start: Callable[[Path], contextlib.AbstractContextManager[T]]) -> None:
        self._name = name
        self._start = start

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """Start both, and end them: ``Case.ground``."""
        with (
            tempfile.TemporaryDirectory(prefix=f"mrelease-{self._name}-") as folder,
            running_agent(Path(folder) / "agent") as self.agent,
            self._start(Path(folder) / self._name) as self.system,
        ):
            yield
