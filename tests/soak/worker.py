"""One worker: a process that makes a victim, has it killed, compares, and again; one JSON line in and one out for each kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from mrelease import Client
from soak.lab_kinds import KINDS
from soak.observer import observing
from soak.programs import Programs
from soak.scene import slot
from soak.watching import ByAgent, watch


def _not_for_us(number: int, frame: FrameType | None) -> None:
    """It is meant for the run, which closes stdin then. Victims do not inherit this, as they would SIG_IGN."""


def main(address: str, number: int, folder: Path) -> None:
    """Kill by the agent at ``address`` until stdin ends."""
    programs = Programs(folder / "observer", folder / "victim")
    with Client(address) as client, observing(programs.observer) as observer, slot(number, programs, folder) as made:
        killer = ByAgent(client)
        print("{}", flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            kill = watch(KINDS[job["kind"]], job["seed"], made, observer, killer)
            print(json.dumps(asdict(kill)), flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _not_for_us)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -5)  # who takes the time of the answer must not be starved
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
