"""Boosts and is killed at the step that it is told: ``boost_crasher.py STATE_DIR PID...``.

Reads ``evacuate N`` or ``lift N`` from stdin: a fork boosts the processes and takes it back, and sends itself SIGKILL before the Nth call
that changes something outside of it. Says ``killed`` or ``done``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mrelease_agent.boosting.booster import Booster
from mrelease_agent.linux.process import ProcessRef

_CHANGES = frozenset({"os.mkdir", "os.rmdir", "os.truncate", "os.rename", "os.remove"})


def main() -> None:
    state, pids = Path(sys.argv[1]), [int(pid) for pid in sys.argv[2:]]
    for line in sys.stdin:
        what, step = line.split()
        child = os.fork()
        if child == 0:
            try:
                _boost(what, int(step), state, pids)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print({0: "done", -signal.SIGKILL: "killed"}.get(status, f"failed: {status}"), flush=True)


def _boost(what: str, step: int, state: Path, pids: list[int]) -> None:
    booster = Booster(state)
    refs = [ProcessRef.open(pid) for pid in pids]
    left = step

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event == "open":
            flags = arguments[2]
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _CHANGES:
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    if what == "evacuate":
        evacuation = booster.evacuate(refs, 60, 0)
        assert evacuation is not None
        assert len(evacuation.moved) == len(pids)
        assert evacuation.close()
    else:
        lift = booster.lift(refs)
        assert lift is not None
        lift.close()
    booster.close()


if __name__ == "__main__":
    main()
