"""Bars on a terminal: the memory that is still held while a command waits. On stderr, and wiped at the end: stdout has the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable
from typing import TYPE_CHECKING

from mrelease import ReleaseProgress, _text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

#: Operations that have a bar each; more than so many share one.
MOST = 5
#: Seconds before the first bar: what is done by then needs none.
DELAY = 0.3
#: Seconds between two looks.
INTERVAL = 0.1


def can_draw() -> bool:
    """Whether stderr is a terminal on which a line can be drawn again."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class Bars:
    """Bars for ``count`` operations, from the first news of one until ``close``."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._latest: dict[Hashable, ReleaseProgress] = {}
        self._tasks: dict[Hashable, TaskID] = {}
        self._drawn: Progress | None = None

    def show(self, operation: Hashable, name: str, progress: ReleaseProgress) -> None:
        """How far an operation is; ``name`` is what its bar is called where it has one of its own."""
        self._latest[operation] = progress
        if self._count <= MOST:
            self._draw(operation, name, progress.held_bytes, progress.before_bytes, progress)
            return
        held, before = (sum(getattr(each, size) for each in self._latest.values()) for size in ("held_bytes", "before_bytes"))
        self._draw(None, f"{self._count} targets", held, before, progress)

    def end(self, operation: Hashable) -> None:
        """An operation has ended: its own bar goes, in the common one nothing of it is held."""
        last = self._latest.pop(operation, None)
        task = self._tasks.pop(operation, None)
        if self._drawn is not None and task is not None:
            self._drawn.remove_task(task)
            self._drawn.refresh()
        elif last is not None:
            gone = ReleaseProgress(last.before_bytes, 0, last.processes, last.processes, last.elapsed_duration)
            self._latest[operation] = gone

    def close(self) -> None:
        """Wipe everything."""
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None

    def _draw(self, bar: Hashable, name: str, held: int, before: int, progress: ReleaseProgress) -> None:
        # A process that has exited held nothing: a bar without a length would be full.
        back, total = before - held, max(before, 1)
        text = f"{_text.share(held, before)} held, {_text.duration(progress.elapsed_duration)}"
        if self._drawn is None:
            self._drawn = _start()
        if bar in self._tasks:
            self._drawn.update(self._tasks[bar], completed=back, total=total, held=text)
        else:
            self._tasks[bar] = self._drawn.add_task(name, completed=back, total=total, held=text)
        self._drawn.refresh()


def console() -> Console:
    """Where bars are drawn."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def _start() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[held]}", markup=False, table_column=Column(no_wrap=True)),
    )
    # Drawn when there is news, not by a thread of its own; stdout stays as it is.
    drawn = Progress(*columns, console=console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
    drawn.start()
    return drawn
