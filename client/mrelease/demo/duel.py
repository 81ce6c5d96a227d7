"""The duel: two equal starved victims, one killed by kill(2) alone and one through the agent, at the same moment."""

from __future__ import annotations

import os
import platform
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from mrelease import Client, Feature, ReleaseResult
from mrelease.demo.budget import affordable, meminfo
from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.observe import Observer, Track
from mrelease.demo.private_agent import PrivateAgent
from mrelease.demo.processes import SceneError
from mrelease.demo.ready_call import ReadyCall
from mrelease.demo.scene import Scene
from mrelease.demo.views import View

_SMALLEST = 16 << 20
_SETTLE_SECONDS = 1.0
_FRAME_SECONDS = 0.1
_AFTERWARDS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the duel was fought."""

    kernel: str = field(default_factory=platform.release)
    architecture: str = field(default_factory=platform.machine)
    cpus: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    memory_bytes: int = field(default_factory=lambda: meminfo("MemTotal"))
    python: str = field(default_factory=platform.python_version)


@dataclass(frozen=True, slots=True)
class Duel:
    """What came out. Tracks are those of the observer; ``result`` is the agent's own account, None where its call failed (``failure``)."""

    size_bytes: int
    limit_seconds: float
    starved_by: str
    spinners: int
    observed_by: str
    release_available: bool
    pids: tuple[int, int]
    killed: Track
    released: Track
    call_seconds: float | None
    result: ReleaseResult | None
    failure: str
    notes: tuple[str, ...]
    machine: Machine = field(default_factory=Machine)

    @property
    def ratio(self) -> float | None:
        """How many times sooner the agent's victim had given its memory back; a lower bound where the other had not by the limit.

        None where the agent's victim had not either.
        """
        if self.released.back_seconds is None:
            return None
        return (self.killed.back_seconds or self.limit_seconds) / self.released.back_seconds

    @property
    def is_bound(self) -> bool:
        """Whether ``ratio`` is only a lower bound."""
        return self.killed.back_seconds is None


def fight(size_bytes: int, limit_seconds: float, view: View) -> Duel:
    """Set the scene, kill, watch until both are gone or the limit is over, and clean up. Raises SceneError."""
    notes: list[str] = []
    size = affordable(size_bytes, victims=2)
    if size < min(size_bytes, _SMALLEST):
        raise SceneError("there is not enough free memory for two victims of 16 MiB beside a margin of 512 MiB")
    if size < size_bytes:
        notes.append(f"{size >> 20} MiB instead of {size_bytes >> 20} MiB a victim: more is not free here")
    with ExitStack() as stack:
        view.step("starting an agent of our own")
        with uninterrupted():
            agent = stack.enter_context(PrivateAgent())
        agent.wait_ready()
        client = stack.enter_context(Client(agent.address))
        capability = next((c for c in client.get_node().capabilities if c.feature == Feature.PROCESS_MRELEASE), None)
        available = capability is not None and capability.available
        if not available:
            why = f": {capability.reason}" if capability is not None and capability.reason else ""
            notes.append(f"without process_mrelease(2) the agent can only watch its victim exit, as kill(2) does{why}")
        with uninterrupted():
            scene = stack.enter_context(Scene())
        view.step(f"two victims touch {size >> 20} MiB each")
        victims = [scene.add_victim(size), scene.add_victim(size)]
        scene.wait_ready()
        view.step("two other processes on each CPU begin to compete for it")
        spinners = scene.add_spinners()
        starved_by = scene.starve()
        time.sleep(_SETTLE_SECONDS)
        observer = stack.enter_context(Observer([v.pidfd for v in victims], scene.gauge()))
        call = ReadyCall(client, victims[1].pid, limit_seconds)
        call.start()
        start = observer.begin()
        call.fire()
        victims[0].send(signal.SIGKILL)
        view.begin(size, observer.tracks)
        while (left := start + limit_seconds - time.monotonic()) > 0 and not observer.wait(min(_FRAME_SECONDS, left)):
            view.update(time.monotonic() - start)
        view.update(min(limit_seconds, time.monotonic() - start))
        killed, released = (track.until(limit_seconds) for track in observer.tracks)
        scene.relax()
        call.join(_AFTERWARDS_SECONDS)
        duel = Duel(
            size_bytes=size,
            limit_seconds=limit_seconds,
            starved_by=starved_by,
            spinners=spinners,
            observed_by=observer.gauge.method,
            release_available=available,
            pids=(victims[0].pid, victims[1].pid),
            killed=killed,
            released=released,
            call_seconds=call.took,
            result=call.result,
            failure=call.failure,
            notes=tuple(notes),
        )
        view.step("cleaning up")
    if scene.left_behind:
        notes.append(f"could not be removed: {', '.join(map(str, scene.left_behind))}")
    return duel
