"""The hooks of deploy/slurm in a real Slurm: slurmstepd and slurmd start them, with the environment that these give."""

from __future__ import annotations

import pytest

from plugins.slurm.cluster import Cluster, wait_for
from plugins.slurm.conftest import Mrelease
from plugins.stuck import NOTHING, SIZE, next_stuck
from support import lab
from support.agent import Agent

pytestmark = pytest.mark.plugins
AWAY = "unix:///nonexistent/agent.sock"


def hook_has_run(slurm: Cluster, hook: str, job: int) -> bool:
    return any(hook in line for line in slurm.log_of(job))


def test_slurm_alone_never_gives_it_back_and_hooks_without_an_agent_change_nothing(caller: Cluster, mrelease: Mrelease) -> None:
    caller.configure_hooks(AGENT=AWAY)
    with caller.hanging() as fs:
        job = caller.submit(f"srun --ntasks=1 {caller.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck:
            caller.run("scancel", str(job))
            caller.await_job(job, "")
            # Slurm's own reason alone: an Epilog that failed would have another one.
            assert "Kill task failed" in caller.await_node("drained")
            assert [line for line in caller.log_of(job) if "not asked" in line] == caller.log_of(job)
            assert hook_has_run(caller, "unkillable-step", job)
            assert hook_has_run(caller, "epilog", job)
            assert stuck.is_killed()
            assert stuck.held_bytes() >= SIZE
            # Out of the queue, the node drained: its memory is still there to be had.
            ran = mrelease("kill", f"slurm://{job}")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert stuck.held_bytes() < NOTHING


def test_the_unkillable_step_program_gives_the_memory_back(caller: Cluster) -> None:
    with caller.hanging() as fs:
        job = caller.submit(f"srun --ntasks=1 {caller.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck:
            caller.run("scancel", str(job))
            lab.until(lambda: stuck.held_bytes() < NOTHING, "the step's memory is back")
            assert not stuck.has_exited()
            wait_for(lambda: hook_has_run(caller, "unkillable-step", job), lambda: "the hook has said what it did")
            assert "memory is back" in caller.log_of(job)[0]
            fs.let_go()


def test_the_epilog_gives_the_memory_back_before_the_next_job_comes(caller: Cluster, plugin_agent: Agent) -> None:
    caller.configure_hooks(AGENT=AWAY)
    with caller.hanging() as fs:
        job = caller.submit(f"exec {caller.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck:
            caller.run("scancel", str(job))
            wait_for(lambda: hook_has_run(caller, "unkillable-step", job), lambda: "Slurm calls the step unkillable")
            assert "step=batch" in caller.log_of(job)[0]
            caller.configure_hooks(AGENT=plugin_agent.address, ONLY_CGROUPS="yes", DRAIN_WHEN_HELD="yes")
            caller.await_job(job, "")
            assert stuck.held_bytes() < NOTHING
            assert not stuck.has_exited()
            assert "memory is back" in next(line for line in caller.log_of(job) if "epilog" in line)
            assert "Epilog" not in caller.await_node("drained", "idle")
    caller.resume()
    quiet = caller.submit("exit 0")
    caller.await_job(quiet, "")
    # What leaves nothing in its cgroups costs no question.
    assert caller.log_of(quiet) == []
