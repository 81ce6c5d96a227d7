"""Where text goes: colours only on a terminal, a reader that has gone away is no error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text

from mrelease import _text

#: What an interruption leaves behind.
INTERRUPTED = "mrelease: interrupted; what was already signalled is released to its end by the agent"

#: Styles of verdicts, outcomes and states; what is not listed is red.
_STYLES = {
    "RELEASED": "green",
    "EXITED": "green",
    "VALIDATED": "cyan",
    "PARTIAL": "yellow",
    "ok": "green",
    "off": "yellow",
}


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), coloured: int | None = None) -> list[Text]:
    """Rows as aligned lines, the first one as the header, one column in the colours of verdicts."""
    lines: list[Text] = []
    for number, cells in enumerate(_text.table(rows, right)):
        line = Text("  ".join(cells).rstrip(), style="bold" if number == 0 else "")
        if number and coloured is not None:
            start = sum(len(cell) + 2 for cell in cells[:coloured])
            line.stylize(style(rows[number][coloured]), start, start + len(cells[coloured]))
        lines.append(line)
    return lines


def style(word: str) -> str:
    """The style of a verdict, an outcome or a state."""
    return _STYLES.get(word, "red")


def out(*lines: Text | str) -> None:
    """Print lines to stdout."""
    _print(sys.stdout, lines)


def err(*lines: Text | str) -> None:
    """Print lines to stderr."""
    _print(sys.stderr, lines)


def _print(stream: TextIO, lines: Sequence[Text | str]) -> None:
    # NO_COLOR (no-color.org) is taken to mean no escapes at all: rich alone would keep bold.
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(file=stream, color_system=colours, soft_wrap=True, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for line in lines:
            console.print(line)
    try:
        stream.write(captured.get())
        stream.flush()
    except BrokenPipeError:
        # The exit code stays what it would have been: whoever reads it did not close the pipe by accident.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except UnicodeEncodeError:
        # A terminal that is not UTF-8: names of processes may be anything.
        stream.write(captured.get().encode("ascii", "backslashreplace").decode("ascii"))
        stream.flush()
