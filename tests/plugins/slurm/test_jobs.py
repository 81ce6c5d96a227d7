"""Jobs of a real Slurm, killed by their own names from where Slurm's commands are."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mrelease import resolvers
from mrelease.errors import NotPlaced, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers.slurm import Commands
from plugins.slurm.cluster import OTHER_USER, Cluster
from plugins.slurm.conftest import Mrelease, stepds_of
from plugins.stuck import NOTHING, SIZE, held_bytes, next_stuck
from support import lab

pytestmark = pytest.mark.plugins
SMALL = 64 * lab.MIB


def pids_of(slurm: Cluster, job: int) -> set[int]:
    """Processes that Slurm lists for a job."""
    lines = slurm.run("scontrol", "listpids", str(job)).splitlines()[1:]
    return {int(line.split()[0]) for line in lines if line.split()[0].isdecimal()}


def test_a_stuck_step_is_cancelled_and_its_memory_is_back_while_slurm_waits(caller: Cluster, mrelease: Mrelease) -> None:
    neighbour = caller.submit(f"exec {caller.hog(SMALL)}")
    with caller.hanging() as fs:
        job = caller.submit(f"srun --ntasks=1 {caller.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck:
            stepds = stepds_of(caller, job)
            ran = mrelease("kill", "--cancel", f"slurm://{job}")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert stuck.held_bytes() < NOTHING
            assert not stuck.has_exited()
            assert caller.final_state(job) == "COMPLETING" or not caller.job_state(job)
            # Who reports the end of the step to Slurm is left alone, and so is another job of the same user.
            assert stepds
            assert stepds & stepds_of(caller, job)
            assert caller.job_state(neighbour) == "RUNNING"
            assert sum(map(held_bytes, pids_of(caller, neighbour))) >= SMALL
            fs.let_go()
            caller.await_job(job, "")
    assert caller.final_state(job) == "CANCELLED"


def test_one_step_is_killed_and_the_others_go_on(caller: Cluster, mrelease: Mrelease) -> None:
    with caller.hanging() as fs:
        step = "srun --ntasks=1 --overlap --mem=0"
        job = caller.submit(f"{step} {caller.hog(SIZE, fs)} &", f"{step} {caller.hog(SMALL)} &", "wait", options=["--mem=1200"])
        with next_stuck(fs) as stuck:
            lab.until(lambda: len(caller.run("squeue", "--noheader", "--steps", "--format=%i").split()) >= 3, "both steps run")
            name = next(
                name
                for name in caller.run("squeue", "--noheader", "--steps", "--format=%i").split()
                if stuck.pid in {int(line.split()[0]) for line in caller.run("scontrol", "listpids", name, check=False).splitlines()[1:]}
            )
            others = {pid for pid in pids_of(caller, job) if held_bytes(pid) > SMALL} - {stuck.pid}
            ran = mrelease("kill", f"slurm://{name}")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert stuck.held_bytes() < NOTHING
            assert others
            assert all(held_bytes(pid) > SMALL for pid in others)
            assert caller.job_state(job) == "RUNNING"


def test_one_task_of_an_array_is_killed(caller: Cluster, mrelease: Mrelease) -> None:
    with caller.hanging() as fs:
        array = caller.submit(f"exec {caller.hog(SIZE, fs)}", options=["--array=3,7"])
        with next_stuck(fs) as one, next_stuck(fs) as other:
            with resolvers.resolve(f"slurm://{array}") as both:
                assert len({placement.target for placement in both}) == 2
            ran = mrelease("kill", f"slurm://{array}_7.batch")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert sorted(stuck.held_bytes() >= SIZE for stuck in (one, other)) == [False, True]
            assert caller.job_state(f"{array}_3") == "RUNNING"


def test_components_of_a_heterogeneous_job_have_names_of_their_own(caller: Cluster) -> None:
    # Held: its components need a node each, and here is one.
    job = caller.submit("exit", options=["--hold", "--mem=400", ":", "--mem=400"])
    rows = Commands().jobs(job, time.monotonic() + 30)
    assert {row.name for row in rows} == {f"{job}+0", f"{job}+1"}
    assert len({row.job for row in rows}) == 2
    with pytest.raises(NotPlaced, match="PENDING"), resolvers.resolve(f"slurm://{job}+1"):
        pass
    with pytest.raises(ReferenceNotFound), resolvers.resolve(f"slurm://{job}+2"):
        pass


def test_a_job_that_is_completing_still_gives_its_memory_back(caller: Cluster, mrelease: Mrelease) -> None:
    with caller.hanging() as fs:
        job = caller.submit(f"exec {caller.hog(SIZE, fs)}")
        with next_stuck(fs) as stuck:
            caller.run("scancel", str(job))
            caller.await_job(job, "COMPLETING")
            lab.until(stuck.is_killed, "Slurm has killed the job")
            assert stuck.held_bytes() >= SIZE
            ran = mrelease("kill", f"slurm://{job}")
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert stuck.held_bytes() < NOTHING


def test_what_slurm_does_not_let_the_caller_cancel_is_not_killed(caller: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # scancel as a user who neither owns the job nor operates Slurm; this interpreter may be where only root can read.
    (tmp_path / "scancel").write_text(f'#!/bin/sh\nexec setpriv --reuid={OTHER_USER} --clear-groups /usr/bin/scancel "$@"\n')
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = caller.submit(f"exec {caller.hog(SMALL)}")
    caller.await_job(job, "RUNNING")
    lab.until(lambda: sum(map(held_bytes, pids_of(caller, job))) >= SMALL, "the job has its memory")
    with pytest.raises(OrchestratorDenied, match="denied"):
        resolvers.kill_and_release(f"slurm://{job}", cancel=True)
    assert caller.job_state(job) == "RUNNING"
    assert sum(map(held_bytes, pids_of(caller, job))) >= SMALL


def test_jobs_that_are_nowhere_say_so(caller: Cluster, mrelease: Mrelease) -> None:
    waiting = caller.submit("exit", options=["--hold"])
    with pytest.raises(NotPlaced, match="PENDING"), resolvers.resolve(f"slurm://{waiting}"):
        pass
    with pytest.raises(ReferenceNotFound, match=r"nodes="), resolvers.resolve("slurm://999999"):
        pass
    with pytest.raises(ReferenceNotFound), resolvers.resolve(f"slurm://{waiting}_3"):
        pass
    # Whoever names the node asks its agent, and hears that nothing of it is there.
    assert mrelease("kill", f"slurm://999999?nodes={caller.node}").returncode == 5


def test_a_slurm_that_does_not_answer_is_not_waited_for(caller: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = tmp_path / "slurm.conf"
    silent.write_text(Path(caller.environment["SLURM_CONF"]).read_text().replace("SlurmctldPort=", "SlurmctldPort=1\n#"))
    monkeypatch.setenv("SLURM_CONF", str(silent))
    with pytest.raises(OrchestratorUnavailable, match=r"squeue|answer"), resolvers.resolve("slurm://1", deadline=1.0):
        pass
