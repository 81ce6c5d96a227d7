"""An agent whose process_mrelease(2) is another one: for what the kernel cannot be made to answer, or not on demand.

Goes in front of an agent's command as the ``prefix`` of ``running_agent``: the interpreter and ``-m mrelease_agent`` that follow are left
out, the flags are the agent's own.

    raise TEXT       every call raises RuntimeError(TEXT)
    gate FIFO        every call waits until somebody has FIFO open for writing, then makes the real one
    break ERRNO      the real call, but the table says PROTECTED of that answer, which is never right
    hold STEP:FIFO   the agent makes the file FIFO.here before that step of an operation, and waits there as with gate, see HOLDS
    die STEP         the agent sends itself SIGKILL right after that step of its first operation, see STEPS
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from mrelease_agent.agent import serve
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.config import Config, load
from mrelease_agent.linux.capabilities import Capabilities, probe
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping import outcome
from mrelease_agent.reaping.aid import Ladder, NoAid
from mrelease_agent.reaping.operation import Operation
from mrelease_agent.reaping.outcome import Answer, Outcome, Then
from mrelease_agent.reaping.releasing import Releasing
from mrelease_agent.reaping.tools import Syscall
from mrelease_agent.rpc.execution import Execution
from mrelease_agent.state import state_directory
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

    return {"raise": fail, "gate": wait}.get(kind, process_mrelease)


#: Each step of an operation on one process, with what does it.
STEPS: dict[str, tuple[type, str]] = {
    "resolve": (Operation, "__init__"),
    "measure": (Operation, "prepare"),
    "grace": (Operation, "begin_grace"),
    "evacuate": (Ladder, "before_kill"),
    "kill": (Operation, "begin"),
    "lift": (Ladder, "lift_on_thread"),
    "reap": (Releasing, "reap"),
    "prove": (Operation, "complete"),
}


def _die_after(step: str) -> None:
    kind, name = STEPS[step]
    original = getattr(kind, name)

    def done(*arguments: Any, **more: Any) -> Any:
        result = original(*arguments, **more)
        if not inspect.iscoroutine(result):
            os.kill(os.getpid(), signal.SIGKILL)

        async def wait() -> None:
            await result
            os.kill(os.getpid(), signal.SIGKILL)

        return wait()

    setattr(kind, name, done)


#: Steps that wait in what can be awaited: where a caller may leave before anything was signalled.
HOLDS: dict[str, tuple[tuple[type, ...], str]] = {
    "resolve": ((Execution,), "run"),
    "measure": ((Operation,), "prepare"),
    "boost": ((Ladder, NoAid), "before_kill"),
}


def _hold_before(step: str, fifo: str) -> None:
    def wait() -> None:
        Path(fifo + ".here").touch()
        os.close(os.open(fifo, os.O_RDONLY))

    def holding(original: Any) -> Any:
        async def held(*arguments: Any, **more: Any) -> Any:
            await asyncio.to_thread(wait)
            return await original(*arguments, **more)

        return held

    kinds, name = HOLDS[step]
    for kind in kinds:
        setattr(kind, name, holding(getattr(kind, name)))


def _break(errno_number: int) -> None:
    table = cast(dict[int, Answer], outcome.ANSWERS)
    table[errno_number] = Answer(Then.AWAIT_EXIT, Outcome.PROTECTED, "the table is broken")


async def _run(config: Config, capabilities: Capabilities, booster: Booster, call: Syscall) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(config, capabilities, booster, call) as endpoint:
        logging.getLogger("mrelease").info("serving on %s", endpoint.listen)
        systemd.notify("READY=1")
        await stop.wait()


def main() -> None:
    """Serve until SIGTERM."""
    kind, argument, _python, _m, _module, *flags = sys.argv[1:]
    config = load(flags, os.environ)
    booster = Booster(state_directory(config))
    capabilities = probe(nice=config.nice).plus(booster.features())
    setup(config.log_format, config.log_level)
    if kind == "break":
        _break(int(argument))
    if kind == "hold":
        _hold_before(*argument.split(":", 1))
    if kind == "die":
        _die_after(argument)
    asyncio.run(_run(config, capabilities, booster, _call(kind, argument)))


if __name__ == "__main__":
    main()
