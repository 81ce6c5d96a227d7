"""An Epilog that finds memory which nobody can give back: a real agent says so. Slurm's part of it is a status: 1 drains the node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.slurm.cluster import HERE
from support import lab, patience
from support.agent import Agent
from support.lab.cgroups import Cgroup, cgroup_below

pytestmark = pytest.mark.plugins


def test_memory_that_is_still_held_drains_the_node_only_where_the_epilog_was_told_to(plugin_agent: Agent, tmp_path: Path) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if not memory.is_dir():
        raise lab.Unavailable("cgroup v1 has no memory controller here")
    hooks = tmp_path / "hooks"
    shutil.copytree(HERE.parents[2] / "deploy" / "slurm", hooks)
    # A second for the agent; much for the command around it, which a busy machine may start late.
    (tmp_path / "mrelease").write_text(f'#!/bin/sh\nexec {sys.executable} -m mrelease "$@" --timeout 1s\n')
    (tmp_path / "mrelease").chmod(0o755)

    def epilog(drain: str) -> int:
        settings = {"MRELEASE": tmp_path / "mrelease", "AGENT": plugin_agent.address, "LOG": tmp_path / "log", "DEADLINE": 120}
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        (hooks / "mrelease.conf").write_text(f"{text}DRAIN_WHEN_HELD={drain}\n")
        return subprocess.run([hooks / "epilog"], env={"SLURM_JOB_ID": "77"}, timeout=180 * patience.FACTOR, check=False).returncode

    # As proctrack/cgroup has it, of a node that is not there.
    with cgroup_below(Cgroup(memory, 1), f"slurm_held{os.getpid()}/uid_0/job_77/step_0") as step, lab.inside_exit_mm(within=[step]):
        assert epilog("no") == 0
        assert epilog("yes") == 1
    said = (tmp_path / "log").read_text().splitlines()
    assert ["MEMORY IS STILL HELD" in line for line in said] == [True, True]
