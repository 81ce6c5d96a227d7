"""ProctrackType=proctrack/linuxproc: what has left its session outlives the job, and Slurm does not know it any more."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from plugins.slurm.cluster import OTHER_USER, USER, Cluster, cluster, wait_for
from plugins.stuck import held_bytes
from support import lab
from support.agent import Agent, running_agent

pytestmark = pytest.mark.plugins
SIZE = 128 * lab.MIB


@pytest.fixture
def by_user(tmp_path: Path) -> Generator[Agent]:
    """An agent that may find what has left a job by the job's user."""
    options = ("--target-plugins", "slurm", "--target-plugin-options", "slurm.stray_processes=uid")
    with running_agent(tmp_path / "run", *options) as started:
        yield started


@pytest.fixture
def untracked() -> Generator[Cluster]:
    with cluster(proctrack="proctrack/linuxproc", task="task/none") as started:
        yield started
        started.end_jobs()


def epilog(slurm: Cluster, job: int) -> None:
    """What slurmd does after a job, once more."""
    environment = {"SLURM_JOB_ID": str(job), "SLURM_JOB_UID": slurm.run("id", "-u", USER)}
    slurm.run("env", "-i", *(f"{name}={value}" for name, value in environment.items()), f"{slurm.folder}/hooks/epilog")


def test_a_process_that_left_its_job_is_found_by_its_user_where_that_is_allowed(
    untracked: Cluster, plugin_agent: Agent, by_user: Agent
) -> None:
    untracked.configure_hooks(AGENT=plugin_agent.address)
    said = untracked.folder / "jobs" / "pid"
    said.touch()
    said.chmod(0o666)
    start = "setsid sh -c 'echo $$ > {}; exec {}' </dev/null >/dev/null 2>&1 &"
    other = untracked.folder / "jobs" / "other"
    other.touch()
    other.chmod(0o666)
    neighbour = untracked.submit(f"echo $$ > {other}; exec {untracked.hog(SIZE)}", user=OTHER_USER)
    # Of a job that has no process yet nobody can say whose it is.
    lab.until(lambda: bool(other.read_text().strip()) and held_bytes(int(other.read_text())) >= SIZE, "the neighbour has its memory")
    job = untracked.submit(start.format(said, untracked.hog(SIZE)), f"until grep -q . {said}; do sleep 0.1; done")
    untracked.await_job(job, "")
    stray = int(said.read_text())
    lab.until(lambda: held_bytes(stray) >= SIZE, "the stray has its memory")
    untracked.await_node("mixed", "allocated", "idle")
    # Slurm's job is over, and an agent that was not told to go by users leaves the process alone.
    epilog(untracked, job)
    assert held_bytes(stray) >= SIZE
    untracked.configure_hooks(AGENT=by_user.address)

    def is_back() -> bool:
        epilog(untracked, job)
        return held_bytes(stray) == 0

    # A slurmstepd that begins or ends does not say whose it is: for so long the stray is left alone.
    wait_for(is_back, lambda: f"the stray is found: {untracked.log_of(job)[-1]}")
    assert untracked.job_state(neighbour) == "RUNNING"
    # Once more: nothing is there, and nothing is wrong.
    epilog(untracked, job)
    assert "nothing is left" in untracked.log_of(job)[-1]
