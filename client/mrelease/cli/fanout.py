"""One piece of work for each of several nodes, so many at the same time, and how far it is meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from mrelease.cli.bars import DELAY, can_draw, console
from mrelease.errors import MreleaseError

if TYPE_CHECKING:
    from rich.progress import Progress

ValueT = TypeVar("ValueT")

#: Nodes that are asked at the same time: an API server carries every tunnel.
CONCURRENCY = 32


async def over(names: Iterable[str], ask: Callable[[str], Awaitable[ValueT]], *, bar: bool = True) -> dict[str, ValueT | MreleaseError]:
    """What ``ask`` gave for each name, or the MreleaseError that it raised. ``bar``: show on a terminal how many are done."""
    every = sorted(set(names))
    slots = asyncio.Semaphore(CONCURRENCY)
    found: dict[str, ValueT | MreleaseError] = {}
    drawn = Bar(len(every)) if bar and len(every) > 1 and can_draw() else None

    async def one(name: str) -> None:
        async with slots:
            try:
                found[name] = await ask(name)
            except MreleaseError as error:
                found[name] = error
        if drawn is not None:
            drawn.step()

    # The default threads are as few as there are processors.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="mrelease-nodes"))
    try:
        await asyncio.gather(*map(one, every))
    finally:
        if drawn is not None:
            drawn.close()
    return {name: found[name] for name in every}


def failures(found: Sequence[tuple[str, MreleaseError]]) -> list[str]:
    """One line for each node that gave nothing, or for all that failed alike."""
    said: dict[str, list[str]] = {}
    for name, error in found:
        said.setdefault(str(error), []).append(name)
    return [f"{', '.join(names)}: {message}" for message, names in said.items()]


class Bar:
    """How many nodes are done, from a moment after it was made until ``close``. On stderr, and wiped at the end."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0
        self._drawn: Progress | None = None
        # What is done by then needs no bar.
        self._start = asyncio.get_running_loop().call_later(DELAY, self._open)

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        if self._drawn is not None:
            self._drawn.update(self._drawn.task_ids[0], completed=self._done, done=f"{self._done} of {self._count} nodes")
            self._drawn.refresh()

    def close(self) -> None:
        """Wipe it."""
        self._start.cancel()
        if self._drawn is not None:
            self._drawn.stop()

    def _open(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (BarColumn(bar_width=30), TextColumn("{task.fields[done]}", markup=False))
        self._drawn = Progress(
            *columns, console=console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._drawn.add_task("", total=self._count, completed=self._done, done=f"{self._done} of {self._count} nodes")
        self._drawn.start()
