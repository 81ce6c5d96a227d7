"""A real Slurm for a module, and what asks the agents about its jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from plugins.slurm.cluster import Cluster, cluster
from support import lab, patience
from support.agent import Agent, clean_environment

Mrelease = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def running() -> Generator[Cluster]:
    """A Slurm that tracks processes by cgroups."""
    lab.need_mrelease()
    with cluster() as started:
        yield started


@pytest.fixture
def slurm(running: Cluster, plugin_agent: Agent) -> Generator[Cluster]:
    """The same, idle and with the hooks' defaults; what a test leaves is cancelled. Enter it before what hangs."""
    running.configure_hooks(AGENT=plugin_agent.address)
    yield running
    running.end_jobs()
    running.resume()


@pytest.fixture
def caller(slurm: Cluster, plugin_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """This process is where Slurm's commands are, and knows the agent of the node."""
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    monkeypatch.setenv("MRELEASE_AGENTS", f"{slurm.node}={plugin_agent.address}")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/usr/bin")
    return slurm


@pytest.fixture
def mrelease(caller: Cluster, plugin_agent: Agent) -> Mrelease:
    """The command line: `mrelease("kill", "slurm://1234")`."""
    names = ("SLURM_CONF", "PATH")
    asking = {**clean_environment(), **{name: os.environ[name] for name in names}}
    asking["MRELEASE_AGENTS"] = f"{caller.node}={plugin_agent.address}"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mrelease", *arguments], env=asking, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60 * patience.FACTOR, check=False,
        )  # fmt: skip

    return run


def stepds_of(cluster: Cluster, job: int) -> set[int]:
    """The slurmstepd processes of a job that is tracked by cgroups of v1."""
    pids = {
        int(pid)
        for file in Path("/sys/fs/cgroup/freezer").glob(f"slurm_{cluster.node}/uid_*/job_{job}/**/cgroup.procs")
        for pid in file.read_text().split()
    }
    return {pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "slurmstepd\n"}
