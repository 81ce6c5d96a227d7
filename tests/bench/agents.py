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
#: The breaker counts as it does everywhere, and no bench meets a limit: the same victims are killed thousands of times.
_UNLIMITED = [flag for limit in ("kills", "kills-per-caller", "kills-per-target") for flag in (f"--max-{limit}", "1000000000")]
_SERVING_TLS = re.compile(r"\bserving TLS listen=\"?([^\s\"]+)")
_SERVING = re.compile(r"\bserving listen=\"?((?:unix|tcp)://[^\s\"]+)")


@dataclass(frozen=True, slots=True)
class BenchAgent:
    """A running agent: what a client connects to, its process id, and its port for TLS where it has one."""

    address: str
    pid: int
    tls_address: str = ""


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
                command = (sys.executable, "-m", "mrelease_agent", "--listen", *listen, "--state-dir", str(folder), *_UNLIMITED, *flags)
                child = Child("exec", *command, output=log, environment=environment)
            address, tls_address = _await_ready(child, folder / "log")
            yield BenchAgent(address, child.pid, tls_address)
        finally:
            if child is not None:
                with uninterrupted():
                    child.end(signal.SIGTERM)


def _await_ready(child: Child, log: Path) -> tuple[str, str]:
    """Return the addresses that it says it serves on, without and with TLS."""
    deadline = time.monotonic() + _READY_SECONDS
    while (found := _SERVING.search(said := log.read_text(encoding="utf-8", errors="replace"))) is None:
        if child.has_exited(0.01) or time.monotonic() > deadline:
            raise RuntimeError(f"the agent did not start: {said.strip()[-500:]}")
    secure = _SERVING_TLS.search(said)
    return found[1].removeprefix("tcp://"), secure[1] if secure else ""
