"""Who kills: kill(2) alone, C programs of the same system calls, the agent through the SDK, `ctr task kill`, earlyoom."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from bench.containers import Containers
from bench.ground import Ground
from bench.programs import Programs, Started
from bench.stages import Stage
from mrelease import Cgroup, Client, MreleaseError, Process, ReleaseResult, Target, Wait

#: The agent's default.
REAP_DELAY_MS = 5

KILL, FLOOR, BOOSTED, AGENT, TCP, CTR, EARLYOOM = (
    "kill(2)",
    "C program",
    "C program + boost",
    "agent",
    "agent by TCP",
    "ctr task kill",
    "earlyoom",
)
#: In the order of the tables.
EVERYBODY = (KILL, FLOOR, BOOSTED, AGENT, TCP, CTR, EARLYOOM)


@dataclass(frozen=True, slots=True)
class Account:
    """A contender's own account. ``origin`` is its first step by ``time.monotonic``, None: the moment it was told to begin."""

    origin: float | None = None
    release_seconds: float | None = None
    call_seconds: float | None = None
    verdict: str = ""
    released_bytes: int | None = None
    boost: str = ""


class Contender(Protocol):
    """One way to get a victim's memory back, used again and again. ``contained``: its victims are in containers."""

    name: str
    contained: bool

    def prepare(self, stage: Stage, limit: float) -> None:
        """Get everything ready that does not belong to the measurement; ``limit`` is for how many seconds the victim is watched."""
        ...

    def fire(self) -> None:
        """Begin."""
        ...

    def account(self) -> Account:
        """Say how it went, in its own words. The victim may not have exited."""
        ...

    def close(self) -> None:
        """End what was prepared."""
        ...


class KillAlone:
    """SIGKILL, and nothing else; for a whole cgroup cgroup.kill where it has one."""

    name = KILL
    contained = False

    def prepare(self, stage: Stage, limit: float) -> None:
        """Find out whom to kill."""
        del limit
        self._pidfd, self._pids, self._file = stage.pidfd, list[int](), None
        if stage.whole and stage.group is not None:
            self._file = stage.group.kill
            self._pids = stage.group.pids()

    def fire(self) -> None:
        """Send the signal."""
        if self._file is not None:
            self._file.write_text("1")
        elif self._pids:
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def account(self) -> Account:
        """Nothing: kill(2) does not wait."""
        return Account()

    def close(self) -> None:
        """Nothing is open."""


class Floor:
    """``floor.c`` or ``floor_set.c``, started and waiting before it is fired, at the agent's priority."""

    contained = False

    def __init__(self, programs: Programs, ground: Ground, *, boost: bool) -> None:
        self.name = BOOSTED if boost else FLOOR
        self._programs = programs
        self._ground = ground
        self._boost = boost
        self._process: Started | None = None

    def prepare(self, stage: Stage, limit: float) -> None:
        """Start the program and wait until it is ready."""
        self._limit = limit
        if stage.whole and stage.group is not None:
            command = [self._programs.floor_set, stage.group.procs[0], stage.group.kill or "-", REAP_DELAY_MS]
        else:
            command = [self._programs.floor, stage.pid, REAP_DELAY_MS, *(self._ground.boost().moves if self._boost else [])]
        self._process = Started(command)
        self._process.hear()

    def fire(self) -> None:
        """Send the line that it waits for."""
        assert self._process is not None
        self._process.order()

    def account(self) -> Account:
        """Read what it printed."""
        assert self._process is not None
        try:
            said = self._process.hear(self._limit)
        except TimeoutError:
            return Account(verdict="not back from process_mrelease")
        began, _, released, error, _, moved = map(int, said)
        took = (released - began) / 1e9
        return Account(
            origin=began / 1e9,
            release_seconds=None if error else took,
            call_seconds=took,
            verdict=f"errno {error}",
            boost="" if not self._boost else "moved" if moved else "not moved",
        )

    def close(self) -> None:
        """End the program, which otherwise waits for the exit."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _Call(threading.Thread):
    """One ``kill_and_release`` that waits for its cue."""

    def __init__(self, client: Client, target: Target, timeout: float) -> None:
        super().__init__(name="caller", daemon=True)
        self._client, self._target, self._timeout = client, target, timeout
        self.cue = threading.Event()
        self.called_at = 0.0
        self.took = 0.0
        self.result: ReleaseResult | None = None
        self.failure = ""

    def run(self) -> None:
        self.cue.wait()
        self.called_at = time.monotonic()
        try:
            self.result = self._client.kill_and_release(self._target, wait=Wait.RELEASED, timeout=self._timeout, reason="mrelease bench")
        except MreleaseError as error:
            self.failure = str(error)
        self.took = time.monotonic() - self.called_at


class Agent:
    """The agent through the SDK, as a caller uses it."""

    contained = False

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self._client = client

    def prepare(self, stage: Stage, limit: float) -> None:
        """Start the calling thread."""
        whole = stage.whole and stage.group is not None
        target = Cgroup(stage.group.path) if whole and stage.group is not None else Process(stage.pid)
        self._call = _Call(self._client, target, limit)
        self._call.start()

    def fire(self) -> None:
        """Let it call."""
        self._call.cue.set()

    def account(self) -> Account:
        """Wait for the answer."""
        self._call.join()
        result = self._call.result
        if result is None:
            return Account(origin=self._call.called_at, call_seconds=self._call.took, verdict=f"failed: {self._call.failure}")
        took = [process.release_duration for process in result.processes if process.release_duration is not None]
        boosts = {getattr(process, "boost", None) for process in result.processes}
        return Account(
            origin=self._call.called_at,
            release_seconds=max(took).total_seconds() if len(took) == len(result.processes) and took else None,
            call_seconds=self._call.took,
            verdict=result.verdict.name,
            released_bytes=result.released_bytes,
            boost=", ".join(sorted(boost.name for boost in boosts if boost is not None and boost.value)),
        )

    def close(self) -> None:
        """The thread has ended, or ends with its deadline."""
        self._call.cue.set()


class CtrTaskKill:
    """``ctr task kill --signal SIGKILL``: what a container runtime does, by way of containerd, its shim and runc."""

    name = CTR
    contained = True

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self, stage: Stage, limit: float) -> None:
        """Remember the container."""
        del limit
        self._command = self._containers.command("task", "kill", "--signal", "SIGKILL", stage.container)

    def fire(self) -> None:
        """Run the command."""
        self._began = time.monotonic()
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def account(self) -> Account:
        """Wait for the command, which does not wait for the exit. When it ended is not known here, only that it has."""
        assert self._process is not None
        status = self._process.wait(timeout=60)
        return Account(origin=self._began, verdict=f"exit status {status}")

    def close(self) -> None:
        """End the command where it still runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(slots=True)
class Contenders:
    """Those that there are here, by name; why others are missing; and versions of foreign ones."""

    here: dict[str, Contender] = field(default_factory=dict[str, Contender])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    versions: list[str] = field(default_factory=list[str])

    def add(self, contender: Contender) -> None:
        """Have one more."""
        self.here[contender.name] = contender
