"""Ray's part of `make bench-plugins`: an actor with a thread in state D."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Generator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mrelease import resolvers
from plugins.bench.case import ALONE, OURS, Case, Measured, watching
from plugins.ray.cluster import Cluster, cluster
from support import lab
from support.agent import running_agent

SITUATION = "`ray.kill` of an actor with a thread in state D, 512 MiB"


class _Ground:
    """Ray and an agent, for all cases."""

    def __init__(self) -> None:
        self.ray: Cluster | None = None

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mr-bench-")))
            agent = stack.enter_context(running_agent(folder / "run"))
            self.ray = stack.enter_context(cluster())
            os.environ.update({name: value for name, value in self.ray.environment.items() if name.startswith("RAY_AUTH")})
            os.environ["MRELEASE_AGENTS"] = f"{self.ray.node}={agent.address}"
            yield

    def alone(self, limit: float) -> Measured:
        return self._measure(limit, is_ours=False)

    def ours(self, limit: float) -> Measured:
        return self._measure(limit, is_ours=True)

    def _measure(self, limit: float, *, is_ours: bool) -> Measured:
        assert self.ray
        ray, name = self.ray, f"bench-{threading.get_native_id()}-{os.urandom(4).hex()}"
        with lab.hang_fs("READ") as fs, ray.stuck(name, fs) as (actor_id, stuck), watching(stuck.pid) as watch:
            watch.begin()
            if is_ours:
                # The reference is resolved while the actor lives; then Ray is told, so that it starts it nowhere else.
                with resolvers.resolve(f"ray://{ray.address}/actor/{actor_id}") as (placement,):
                    ray.order("kill", name=name, for_good=True)
                    with placement.client() as node:
                        node.kill_and_release(placement.target, node=placement.expected, reason="benchmark")
            else:
                ray.order("kill", name=name, for_good=True)
            back = watch.back(limit)
            lab.until(lambda: ray.state(actor_id) == "DEAD", "Ray says that the actor is dead")
            usable = "yes" if back is not None else f"Ray gives the room away; {stuck.held_bytes() >> 20} MiB of it are held"
            return Measured(watch.held_bytes, back, f"actor {ray.state(actor_id)}", usable)


def cases() -> list[Case]:
    """Alone, and with a reference."""
    try:
        found = version("ray")
    except PackageNotFoundError:
        found = ""
    ground = _Ground()
    return [
        Case("Ray", SITUATION, ALONE, ground.alone, 30.0, f"Ray {found}", ground),
        Case("Ray", SITUATION, OURS, ground.ours, 30.0, f"Ray {found}", ground),
    ]
