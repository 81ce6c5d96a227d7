"""A process that lives for one release: ``python -m mrelease.integrations._helper``, one line of JSON in, one out.

The main process of a Celery worker forks its children. gRPC has threads, and what is forked beside them may hang as soon as it uses gRPC
itself: so gRPC never comes into that process. This one is started before it is needed, and has all of its memory when a node has no more.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mrelease._text import printable, size

_LONGEST = 1 << 16
# Seconds between two looks at whether the process that would give an order is still there.
_LOOK = 5.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to do: release the process that ``identify`` found as ``facts`` once it has been killed.

    ``timeout``: seconds for the release; ``patience``: to wait for the kill, and again for an agent that does not answer.
    """

    facts: dict[str, Any]
    reason: str
    timeout: float
    patience: float


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. ``is_asked``: whether an agent was asked; ``is_back``: whether nothing is left to do; ``message``: for the log."""

    is_asked: bool
    is_back: bool
    message: str


class Helper:
    """A helper that waits for its order: ``give`` it one, then ``wait`` for what it says, or it stays a zombie."""

    def __init__(self) -> None:
        """Start it; it gets ready meanwhile. Raises OSError."""
        # It finds its modules where this process finds them, and nothing in a working directory stands for one of them.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
        self._longest = 0.0
        self._process = subprocess.Popen(  # noqa: S603 -- this interpreter, this module
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    def is_there(self) -> bool:
        """Whether it still waits; an administrator may have ended it."""
        return self._process.poll() is None

    def give(self, order: Order) -> None:
        """Its one order. Raises OSError where it has ended."""
        self._longest = order.timeout + 2 * order.patience + 10
        # Less than a pipe holds: this does not wait.
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        self._process.stdin.flush()

    def wait(self) -> Report:
        """Its report, also where it has none."""
        assert self._process.stdout is not None
        with self._process:
            ready, _, _ = select.select([self._process.stdout], [], [], self._longest)
            line = self._process.stdout.readline(_LONGEST) if ready else b""
            self._process.kill()
        try:
            said = json.loads(line)
            return Report(bool(said["is_asked"]), bool(said["is_back"]), printable(str(said["message"])))
        except (ValueError, KeyError, TypeError):
            return Report(False, False, f"the helper ended with status {self._process.returncode} and said nothing")


def carry_out(order: Order) -> Report:
    """Do it, in this process."""
    from mrelease._client import Client
    from mrelease.errors import MreleaseError
    from mrelease.integrations._dying import Watched, release, wait_killed
    from mrelease.integrations._located import located

    wanted = located(order.facts)
    try:
        # Before anything is waited for: the imports have taken what a kill takes.
        watched = Watched(wanted.process.pid)
    except ProcessLookupError:
        return Report(False, True, "the process has ended")
    with watched:
        if watched.located != wanted:
            return Report(False, True, "the process has ended, and another one has its number")
        with Client(timeout=order.timeout) as client:
            if not wait_killed(watched, order.patience):
                ended = watched.has_exited()
                return Report(False, ended, "the process has ended" if ended else "nobody has killed the process, so nothing was done")
            try:
                result = release(watched, client, reason=order.reason, timeout=order.timeout, patience=order.patience)
            except (MreleaseError, LookupError) as error:
                return Report(True, False, str(error))
    if result is None:
        return Report(True, True, "the process has ended")
    text = f"{result.verdict}, {size(result.released_bytes)} released"
    return Report(True, result.is_released, text if result.is_released else f"{text}; {result}")


def main() -> int:
    """Get ready, read an order, carry it out, say what came of it. Ends when nobody is left who could give one."""
    # What takes long is done before it is needed.
    import_module("mrelease._client")
    import_module("mrelease.integrations._dying")

    parent = os.getppid()
    # The end of the pipe tells little: children that were forked meanwhile have it open, too.
    while not select.select([sys.stdin], [], [], _LOOK)[0]:
        if os.getppid() != parent:
            return 0
    try:
        report = carry_out(Order(**json.loads(sys.stdin.readline(_LONGEST))))
    except Exception as error:  # whoever asked has a log, and this process has none
        report = Report(False, False, repr(error))
    print(json.dumps(asdict(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
