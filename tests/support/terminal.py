"""A command whose stderr is a terminal while its stdout goes to a pipe: what is drawn, and what is left for a program to read."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MRELEASE = str(Path(sys.executable).with_name("mrelease"))
PATIENCE = 60.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class OnTerminal:
    """``mrelease`` under way; ``drawn`` is what the terminal was given so far, without its escapes."""

    def __init__(self, child: subprocess.Popen[bytes], terminal: int) -> None:
        self._child = child
        self._terminal = terminal
        self._given = b""
        self._out = b""
        # A pipe that nobody reads would stop the command.
        self._reader = threading.Thread(target=self._read_out)
        self._reader.start()

    @property
    def drawn(self) -> str:
        return _ESCAPES.sub("", self.raw)

    @property
    def raw(self) -> str:
        return self._given.decode(errors="replace")

    def await_text(self, text: str) -> None:
        """Wait until the terminal was given this text."""
        while text not in self.drawn:
            assert self._more(), f"ended without {text!r}: {self.drawn}"

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._child.send_signal(signal.SIGINT)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the exit code and stdout."""
        while self._more():
            pass
        self._reader.join(PATIENCE)
        return self._child.wait(PATIENCE), self._out.decode()

    def _more(self) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], PATIENCE)
        assert ready, f"nothing more for {PATIENCE:g} s: {self.drawn}"
        try:
            part = os.read(self._terminal, 65536)
        except OSError:  # a terminal that its last user has left reads as EIO, tty(4)
            return False
        self._given += part
        return bool(part)

    def _read_out(self) -> None:
        assert self._child.stdout is not None
        self._out = self._child.stdout.read()


@contextmanager
def on_terminal(*arguments: str, **environment: str) -> Generator[OnTerminal]:
    """Run ``mrelease`` with its stderr on a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    variables = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm", "COLUMNS": "120"} | environment
    with subprocess.Popen([MRELEASE, *arguments], stdout=subprocess.PIPE, stderr=theirs, env=variables) as child:
        os.close(theirs)
        try:
            yield OnTerminal(child, ours)
        finally:
            child.kill()
            child.wait()
            os.close(ours)
