"""Agents of the bench's own, in processes that end with it."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.scratch import scratch
from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.processes import Child

_READY_SECONDS = 30.0
_SERVING = re.compile(r"\bserving listen=\"?((?:unix|tcp)://[^\s\"]+)")


@dataclass(frozen=True, slots=True)
class BenchAgent:
    """A running agent: what a client connects to, and its process id."""

    address: str
    pid: int


@contextmanager
def bench_agent(*flags: str, tcp: bool = False) -> Generator[BenchAgent, None, None]:
    """An ``mrelease-agent`` on a Unix socket, or on a loopback port with ``tcp``."""
    # What is set for another agent is not meant for this one.
    foreign = ("NOTIFY_SOCKET", "RUNTIME_DIRECTORY")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MRELEASE_") and name not in foreign}
    with scratch() as folder:
        listen = ["tcp://127.0.0.1:0", "--allow-plaintext-loopback"] if tcp else [f"unix://{folder}/agent.sock"]
        child: Child | None = None
        try:
            with uninterrupted(), (folder / "log").open("wb") as log:
                command = (sys.executable, "-m", "mrelease_agent", "--listen", *listen, "--state-dir", str(folder), *flags)
                child = Child("exec", *command, output=log, environment=environment)
            yield BenchAgent(_await_ready(child, folder / "log"), child.pid)
        finally:
            if child is not None:
                with uninterrupted():
                    child.end(signal.SIGTERM)


def _await_ready(child: Child, log: Path) -> str:
    """Return the address that it says it serves on."""
    deadline = time.monotonic() + _READY_SECONDS
    while (found := _SERVING.search(said := log.read_text(encoding="utf-8", errors="replace"))) is None:
        if child.has_exited(0.01) or time.monotonic() > deadline:
            raise RuntimeError(f"the agent did not start: {said.strip()[-500:]}")
    return found[1].removeprefix("tcp://")
