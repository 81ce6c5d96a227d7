"""A reclaim as it happens, on a terminal: its rows so far and who is dying. On stderr, and wiped at the end, as bars are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mrelease.cli.bars import DELAY, console
from mrelease.cli.reclaimed import Reclaimed

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

# Rows that are shown; the table at the end has all.
_ROWS = 8


class View:
    """Shows ``reclaimed`` from a moment after it was made until ``close``; made and used in an event loop."""

    def __init__(self, reclaimed: Reclaimed) -> None:
        self._reclaimed = reclaimed
        self._live: Live | None = None
        # What is done by then needs no view.
        self._start = asyncio.get_running_loop().call_later(DELAY, self._open)

    def update(self) -> None:
        """Something has happened."""
        if self._live is not None:
            self._live.update(self._draw(), refresh=True)

    def close(self) -> None:
        """Wipe everything."""
        self._start.cancel()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _open(self) -> None:
        from rich.live import Live

        # Drawn when there is news, not by a thread of its own; stdout stays as it is.
        self._live = Live(console=console(), auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._live.start()
        self.update()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        now, share = self._reclaimed.now(), self._reclaimed.share
        rows: list[RenderableType] = [*self._reclaimed.rows(_ROWS)]
        if now:
            line = Table.grid(padding=(0, 1))
            line.add_row(now, *([] if share is None else [ProgressBar(total=1.0, completed=share, width=30)]))
            rows.append(line)
        return Group(*rows)
