"""A caller goes away at every step of its operation, in every way: the operation runs to its end, and its end is in log and metrics.

The steps before the signal pass in no time: there an agent is held by the seam (support/seam_agent.py). Everything after is real.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from support import lab, raw, scrape, seam_agent, signals
from support.agent import Agent, running_agent
from support.lab.kernel import PROCESS_MRELEASE

SIZE = 16 * lab.MIB
EXITED = raw.field(3, 2)
#: Between the caller's deadline and the second for which every operation is worked at, however little time its caller has.
LATER = raw.field(2, 800_000_000)
REAP_DELAY, GRACE = raw.field(5, LATER), raw.field(9, LATER)
DEADLINE = 0.5

pytestmark = pytest.mark.usefixtures("process_mrelease")


@pytest.fixture(scope="module")
def process_mrelease() -> None:
    """Skips where the kernel has no process_mrelease(2)."""
    lab.need_mrelease()


@dataclass(frozen=True, slots=True)
class Scene:
    """One operation: what is asked for, how to wait until it has come to its step, and how to let it go on."""

    pid: int
    request: bytes
    reached: Callable[[], object]
    go_on: Callable[[], object]
    outcomes: tuple[str, ...] = ("RELEASED", "EXITED")
    untouched: bool = False
    """Nothing has been signalled at this step."""


@dataclass(frozen=True, slots=True)
class Agents:
    """Agents with metrics and a log to read, each started when it is needed first: one for each step of HOLDS, one for all others."""

    folder: Path
    _stack: contextlib.ExitStack
    _started: dict[str, Agent]

    def gate(self, step: str) -> Path:
        return self.folder / f"{step}-gate"

    def at(self, step: str) -> Agent:
        held = step in seam_agent.HOLDS
        name = step if held else "plain"
        if name not in self._started:
            prefix = seam_agent.seam("hold", f"{step}:{self.gate(step)}") if held else ()
            flags = (*scrape.FLAGS, "--log-format", "json")
            self._started[name] = self._stack.enter_context(running_agent(self.folder / name, *flags, prefix=prefix))
        return self._started[name]


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Generator[Agents, None, None]:
    with contextlib.ExitStack() as stack:
        yield Agents(tmp_path_factory.mktemp("agents"), stack, {})


@contextlib.contextmanager
def before(step: str, gate: Path) -> Generator[Scene]:
    """The agent stands before ``step``: the victim lives."""
    here = Path(f"{gate}.here")
    here.unlink(missing_ok=True)
    with seam_agent.gate(gate), contextlib.ExitStack() as opening, lab.live(SIZE) as victim:
        yield Scene(
            victim.pid,
            raw.process(victim.pid) + EXITED,
            lambda: lab.until(here.exists, f"the agent is about to {step}"),
            lambda: opening.enter_context(seam_agent.opened(gate)),
            untouched=True,
        )
    gate.unlink()


@contextlib.contextmanager
def in_grace() -> Generator[Scene]:
    """The victim was asked to end, and does not."""
    with signals.handler(what="ignore", size=SIZE) as asked:
        said = asked.process.stdout
        assert said is not None
        yield Scene(asked.pid, raw.process(asked.pid) + GRACE + EXITED, said.readline, lambda: None)


@contextlib.contextmanager
def in_reap_delay() -> Generator[Scene]:
    """The signal is out, the victim stands at its exit, and the agent waits for that."""
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        yield Scene(victim.pid, raw.process(victim.pid) + REAP_DELAY, hold.wait_held, lambda: None, ("RELEASED",))


def reaping(agent: Agent) -> bool:
    """Whether a thread of the agent is in process_mrelease(2), or in the look before it (pagemap): proc_pid_syscall(5)."""
    calls = [Path(f"/proc/{agent.pid}/task/{tid}/syscall").read_text().split() for tid in lab.threads(agent.pid)]
    return any(call[0] == str(PROCESS_MRELEASE) or (len(call) > 1 and reads_pagemap(agent, call[1])) for call in calls)


def reads_pagemap(agent: Agent, descriptor: str) -> bool:
    try:
        return str(Path(f"/proc/{agent.pid}/fd/{int(descriptor, 16)}").readlink()).endswith("/pagemap")
    except OSError:
        return False


@contextlib.contextmanager
def in_mrelease(agent: Agent) -> Generator[Scene]:
    """process_mrelease(2) waits for mmap_lock."""
    with lab.mmap_locked(SIZE) as victim:
        request = raw.process(victim.pid) + EXITED
        # By the time that it is let go, the agent may have given up: its caller's deadline ended its wait.
        outcomes = ("RELEASED", "EXITED", "HELD")
        yield Scene(victim.pid, request, lambda: lab.until(lambda: reaping(agent), "the agent reaps"), victim.let_go, outcomes)


@contextlib.contextmanager
def awaiting_exit() -> Generator[Scene]:
    """The memory is back, the victim has not exited."""
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:

        def back() -> bool:
            return lab.rss_anon(victim.pid) < SIZE // 100

        request = raw.process(victim.pid) + EXITED
        yield Scene(victim.pid, request, lambda: lab.until(back, "the memory is back"), hold.let_go)


def standing_at(step: str, agents: Agents) -> contextlib.AbstractContextManager[Scene]:
    """An operation that will stop at ``step``."""
    if step in seam_agent.HOLDS:
        return before(step, agents.gate(step))
    if step == "reap":
        return in_mrelease(agents.at(step))
    return {"grace": in_grace, "reap delay": in_reap_delay, "await exit": awaiting_exit}[step]()


def cancel(flying: Any, connection: contextlib.ExitStack) -> None:
    flying.cancel()
    assert flying.code() is grpc.StatusCode.CANCELLED


def outlast(flying: Any, connection: contextlib.ExitStack) -> None:
    assert flying.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def hang_up(flying: Any, connection: contextlib.ExitStack) -> None:
    connection.close()
    assert flying.code() is grpc.StatusCode.CANCELLED


def holds_processes(agent: Agent) -> list[str]:
    """Descriptors of the agent that belong to a process: pidfds, and directories of /proc."""
    found: list[str] = []
    for entry in Path(f"/proc/{agent.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return [link for link in found if "pidfd" in link or re.match(r"/proc/\d", link)]


@pytest.mark.parametrize("leave", [cancel, outlast, hang_up], ids=["cancelled", "deadline", "connection closed"])
@pytest.mark.parametrize("step", [*seam_agent.HOLDS, "grace", "reap delay", "reap", "await exit"])
def test_it_runs_to_its_end(step: str, leave: Callable[[Any, contextlib.ExitStack], None], agents: Agents) -> None:
    agent = agents.at(step)
    with standing_at(step, agents) as scene:
        with contextlib.ExitStack() as connection:
            call = connection.enter_context(raw.caller(agent.address))
            flying = call.start(raw.KILL, scene.request, DEADLINE if leave is outlast else raw.PATIENCE)
            scene.reached()
            leave(flying, connection)
        if scene.untouched:
            assert lab.state(scene.pid) not in ("Z", "X", "")
            assert int(lab.status_fields(scene.pid)["ShdPnd"], 16) == 0
        scene.go_on()
        operation = scrape.wait_event(agent, "operation", pid=scene.pid)
        assert operation["outcome"] in scene.outcomes, operation
        if operation["outcome"] != "HELD":
            assert operation["released_bytes"] >= SIZE * 0.99
        assert scrape.metric(agent, "mrelease_outcomes_total", method="KillAndRelease", outcome=operation["outcome"]) >= 1
        scrape.wait_metric(agent, 0, "mrelease_operations_in_flight")
        lab.until(lambda: not holds_processes(agent), "the agent holds no process any more")
        with raw.caller(agent.address) as call:
            assert call(raw.HEALTH, b"").body == raw.SERVING
