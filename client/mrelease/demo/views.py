"""What a person sees while the duel lasts: live bars on a terminal, a few plain lines elsewhere, nothing where data is asked for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from mrelease import _text
from mrelease.demo.observe import Track

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LABELS = ("kill(2) alone", "mrelease agent")
_LINE_SECONDS = (0.2, 1, 2, 5, 10, 15, 20, 30, 45, 60)


class View(Protocol):
    """Follows a duel. A context manager."""

    def __enter__(self) -> View: ...
    def __exit__(self, *_: object) -> None: ...
    def step(self, text: str) -> None:
        """Something is being set up or cleaned up."""
        ...

    def begin(self, size: int, tracks: Sequence[Track]) -> None:
        """The kill is now; ``tracks`` grow from here on."""
        ...

    def update(self, seconds: float) -> None:
        """Show what is held ``seconds`` after the kill."""
        ...


def choose(*, silent: bool) -> View:
    """Choose the view for standard output: silent for data, live bars on a terminal where rich is installed, else plain lines."""
    if silent:
        return SilentView()
    return LiveView() if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None else PlainView()


class SilentView:
    """Shows nothing."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(self, *_: object) -> None: ...

    def step(self, text: str) -> None:
        """Show nothing."""

    def begin(self, size: int, tracks: Sequence[Track]) -> None:
        """Show nothing."""

    def update(self, seconds: float) -> None:
        """Show nothing."""


class PlainView(SilentView):
    """A line a step, then a line now and then."""

    def __init__(self) -> None:
        self._tracks: Sequence[Track] = ()
        self._due = list(_LINE_SECONDS)

    def __enter__(self) -> PlainView:
        return self

    def step(self, text: str) -> None:
        """Print the step."""
        print(f"{text} ...", flush=True)

    def begin(self, size: int, tracks: Sequence[Track]) -> None:
        """Print that both are killed."""
        self._tracks = tracks
        print(f"both are killed now: SIGKILL to one, an RPC for the other; each holds {_text.size(size)}", flush=True)

    def update(self, seconds: float) -> None:
        """Print what is held, at few moments."""
        if self._due and seconds >= self._due[0]:
            self._due = [due for due in self._due if due > seconds]
            held = ", ".join(f"{label} {_text.size(track.held)}" for label, track in zip(LABELS, self._tracks, strict=True))
            print(f"after {seconds:4.1f} s still held: {held}", flush=True)


class LiveView(SilentView):
    """Two bars that show what is still held."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = console or Console()
        self._live: Live = Live(console=self._console, auto_refresh=False, transient=False)
        self._tracks: Sequence[Track] = ()
        self._size = 0

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def step(self, text: str) -> None:
        """Show the step; once the bars are there, they stay."""
        if not self._tracks:
            self._live.update(f"{text} ...", refresh=True)

    def begin(self, size: int, tracks: Sequence[Track]) -> None:
        """Show full bars."""
        self._size, self._tracks = size, tracks
        self.update(0.0)

    def update(self, seconds: float) -> None:
        """Redraw the bars."""
        self._live.update(self._bars(seconds), refresh=True)

    def _bars(self, seconds: float) -> RenderableType:
        from rich.bar import Bar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_row(Text(f"{seconds:4.1f} s", style="bold"), Text("memory still held", style="dim"))
        for label, track in zip(LABELS, self._tracks, strict=True):
            width = max(10, min(50, self._console.width - 46))
            color = "red" if track.back_seconds is None else "green"
            bar = Bar(self._size, 0, min(track.held, self._size), width=width, color=color)
            back = Text(f"back after {_seconds(track.back_seconds)}", style="green") if track.back_seconds is not None else Text("")
            grid.add_row(label, bar, Text(_text.size(track.held), justify="right"), back)
        return grid


def _seconds(value: float) -> str:
    from datetime import timedelta

    return _text.duration(timedelta(seconds=value))
