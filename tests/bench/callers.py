"""Many callers at once: how many kills a second, beside how many echoes the same stack can answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import caller_program, echo_server
from bench.programs import Programs, running
from bench.results import Callers, Run
from bench.scratch import scratch

_SIZE = 1 << 20


def callers(run: Run, programs: Programs, agent: str, count: int, calls: int, rounds: int) -> Callers:
    """Let ``count`` callers make ``calls`` calls each, of each kind, in every round.

    Raises RuntimeError for a kill with a verdict other than RELEASED and EXITED.
    """
    found = Callers(run, count, [], [], [])
    with scratch() as folder:
        echo = f"unix://{folder}/echo.sock"
        with running([sys.executable, Path(echo_server.__file__), echo]) as server:
            server.hear()
            for number in range(rounds):
                for kind in ("echo", "check") if number % 2 else ("check", "echo"):
                    rate = _rate(kind, echo if kind == "echo" else agent, count, range(1, count * calls + 1))
                    (found.echo if kind == "echo" else found.check).append(rate)
                with running([programs.victim, "-p", os.getpid(), "crowd", count * calls, _SIZE]) as maker:
                    pids = [int(pid) for pid in maker.hear()[1:]]
                    found.kill.append(_rate("kill", agent, count, pids))
    return found


def _rate(kind: str, address: str, count: int, arguments: range | list[int]) -> float:
    with running([sys.executable, "-m", caller_program.__name__, kind, address, count]) as program:
        program.order(" ".join(map(str, arguments)))
        return float(program.hear()[0])
