"""Slurm's part of `make bench-plugins`: a step with a thread in state D, cancelled."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from mrelease import resolvers
from plugins.bench.case import ALONE, OURS, Case, Measured, watching
from plugins.slurm.cluster import UNKILLABLE, Cluster, cluster, installed_version, wait_for
from plugins.stuck import SIZE, next_stuck
from support.agent import Agent, running_agent

SITUATION: Final = f"`scancel` of a step with a thread in state D, 512 MiB, `UnkillableStepTimeout={UNKILLABLE}`"
_AWAY: Final = "unix:///nonexistent/agent.sock"
# What Slurm alone does to the end of a job takes some 20 s with these settings.
_LIMIT: Final = 40.0


@dataclass(slots=True)
class Ground:
    """What every case stands on."""

    slurm: Cluster
    agent: Agent


_grounds: list[Ground] = []


def cases() -> list[Case]:
    """Slurm alone, each hook alone, and a caller beside scancel."""
    contenders: list[tuple[str, Callable[[float], Measured]]] = [
        (ALONE, partial(_measure, {})),
        ("`UnkillableStepProgram`", partial(_measure, {"unkillable-step": True})),
        ("`Epilog`", partial(_measure, {"epilog": True})),
        (OURS, partial(_measure, {"caller": True})),
    ]
    return [Case("Slurm", SITUATION, name, measure, _LIMIT, installed_version(), _ground) for name, measure in contenders]


@contextlib.contextmanager
def _ground() -> Generator[Ground]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mrelease-bench-")))
        agent = stack.enter_context(running_agent(folder / "run", "--target-plugins", "slurm"))
        slurm = stack.enter_context(cluster())
        before = dict(os.environ)
        stack.callback(_restore, before)
        os.environ.update(SLURM_CONF=slurm.environment["SLURM_CONF"], MRELEASE_AGENTS=f"{slurm.node}={agent.address}")
        _grounds.append(Ground(slurm, agent))
        stack.callback(_grounds.pop)
        yield _grounds[-1]


def _restore(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _measure(who: Mapping[str, bool], limit: float) -> Measured:
    slurm, agent = _grounds[-1].slurm, _grounds[-1].agent
    slurm.configure_hooks(AGENT=agent.address if "unkillable-step" in who else _AWAY)
    with slurm.hanging() as fs:
        job = slurm.submit(f"srun --ntasks=1 {slurm.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck, watching(stuck.pid) as watch:
            watch.begin()
            if "caller" in who:
                resolvers.kill_and_release(f"slurm://{job}", cancel=True, reason="benchmark")
            else:
                slurm.run("scancel", str(job))
            if "epilog" in who:
                wait_for(lambda: bool(slurm.log_of(job)), lambda: "Slurm calls the step unkillable")
                slurm.configure_hooks(AGENT=agent.address)
            back = watch.back(limit)
            # The process hangs to the end in each case, so Slurm ends the job in its own way.
            slurm.await_job(job, "")
            reason = slurm.await_node("drained", "idle")
            measured = Measured(watch.held_bytes, back, f"job {slurm.final_state(job)}", f"no: drained, {reason}" if reason else "yes")
    slurm.resume()
    return measured
