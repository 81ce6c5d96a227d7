"""An agent whose process_mrelease(2) is another one: for what the kernel cannot be made to answer, or not on demand.

Goes in front of an agent's command as the ``prefix`` of ``running_agent``: the interpreter and ``-m mrelease_agent`` that follow are left
out, the flags are the agent's own.

    raise TEXT       every call raises RuntimeError(TEXT)
    gate FIFO        every call waits until somebody has FIFO open for writing, then makes the real one
    break ERRNO      the real call, but the table says PROTECTED of that answer, which is never right
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import cast

from mrelease_agent.agent import serve
from mrelease_agent.config import Config, load
from mrelease_agent.linux.capabilities import Capabilities, probe
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping import outcome
from mrelease_agent.reaping.operation import Syscall
from mrelease_agent.reaping.outcome import Answer, Outcome, Then
from mrelease_agent.telemetry import systemd
from mrelease_agent.telemetry.logs import setup


def seam(kind: str, argument: str) -> list[str]:
    """The ``prefix`` for ``running_agent``."""
    return [sys.executable, __file__, kind, argument]


@contextlib.contextmanager
def gate(path: Path) -> Generator[Path, None, None]:
    """A FIFO for ``gate``; at the end it is opened, so that no call waits for ever."""
    os.mkfifo(path)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


@contextlib.contextmanager
def opened(path: Path) -> Generator[None, None, None]:
    """The gate is open: who waits goes on, who comes does not wait."""
    fd = os.open(path, os.O_RDWR)
    try:
        yield
    finally:
        os.close(fd)


def _call(kind: str, argument: str) -> Syscall:
    def fail(_pidfd: int) -> int:
        raise RuntimeError(argument)

    def wait(pidfd: int) -> int:
        os.close(os.open(argument, os.O_RDONLY))
        return process_mrelease(pidfd)

    return {"raise": fail, "gate": wait, "break": process_mrelease}[kind]


def _break(errno_number: int) -> None:
    table = cast(dict[int, Answer], outcome.ANSWERS)
    table[errno_number] = Answer(Then.AWAIT_EXIT, Outcome.PROTECTED, "the table is broken")


async def _run(config: Config, capabilities: Capabilities, call: Syscall) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(config, capabilities, call) as endpoint:
        logging.getLogger("mrelease").info("serving on %s", endpoint.listen)
        systemd.notify("READY=1")
        await stop.wait()


def main() -> None:
    """Serve until SIGTERM."""
    kind, argument, _python, _m, _module, *flags = sys.argv[1:]
    config = load(flags, os.environ)
    capabilities = probe(nice=config.nice)
    setup(config.log_format, config.log_level)
    if kind == "break":
        _break(int(argument))
    asyncio.run(_run(config, capabilities, _call(kind, argument)))


if __name__ == "__main__":
    main()
