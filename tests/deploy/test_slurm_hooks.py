"""deploy/slurm: whatever happens to a hook, it makes nothing worse. With real Slurm: tests/plugins/slurm."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import lab, patience

DEPLOY = Path(__file__).parents[2] / "deploy" / "slurm"
HOOKS = ("epilog", "unkillable-step")
PROGRAMS = (*HOOKS, "scancel-release")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """The hooks as an administrator installs them, and a command in the place of mrelease: its status is what is mapped here."""
    folder = tmp_path / "hooks"
    shutil.copytree(DEPLOY, folder)
    command = tmp_path / "mrelease"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexec cat {tmp_path}/answer\n')
    command.chmod(0o755)
    return folder


@pytest.fixture
def run(hooks: Path, tmp_path: Path) -> Run:
    """Run a hook as Slurm does, with hardly an environment."""

    def hook(name: str, answer: str, *, settings: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        command = tmp_path / "mrelease"
        command.write_text(f'#!/bin/sh\necho "$MRELEASE_AGENT $@" >> {tmp_path}/asked\n{answer}\n')
        (hooks / "mrelease.conf").write_text(f"MRELEASE={command}\nLOG={tmp_path}/log\n{settings}\n")
        return subprocess.run(
            [hooks / name], env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=60 * patience.FACTOR, check=False,
        )  # fmt: skip

    return hook


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 5, 6, 126, 127, 130, 255])
def test_an_epilog_never_drains_a_node_by_itself(run: Run, status: int) -> None:
    assert run("epilog", f"exit {status}", SLURM_JOB_ID="7", SLURM_JOB_UID="5").returncode == 0


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 5, 6, 127])
def test_an_epilog_drains_for_memory_that_is_held_where_it_was_told_to(run: Run, status: int) -> None:
    ran = run("epilog", f"exit {status}", settings="DRAIN_WHEN_HELD=yes", SLURM_JOB_ID="7", SLURM_JOB_UID="5")
    assert ran.returncode == (1 if status == 3 else 0)


@pytest.mark.parametrize(("status", "said"), [(0, 0), (5, 0), (3, 3), (4, 4), (6, 5), (1, 5), (127, 5)])
def test_the_unkillable_step_program_says_what_became_of_it(run: Run, status: int, said: int) -> None:
    assert run("unkillable-step", f"exit {status}", SLURM_JOBID="7", SLURM_STEPID="0").returncode == said


@pytest.mark.parametrize("hook", HOOKS)
def test_a_command_that_hangs_is_ended_at_the_deadline(run: Run, tmp_path: Path, hook: str) -> None:
    ran = run(hook, "exec sleep 600", settings="DEADLINE=2\nDRAIN_WHEN_HELD=yes", SLURM_JOB_ID="7", SLURM_STEP_ID="0")
    assert ran.returncode == (0 if hook == "epilog" else 5)
    assert "no answer within 2 s" in (tmp_path / "log").read_text()


def test_a_job_and_its_user_or_step_are_what_the_agent_is_asked_for(run: Run, tmp_path: Path) -> None:
    settings = "AGENT=unix:///run/other.sock"
    run("epilog", "exit 0", settings=settings, SLURM_JOB_ID="7", SLURM_JOB_UID="5")
    run("unkillable-step", "exit 0", settings=settings, SLURM_JOBID="7", SLURM_STEPID="12")
    run("unkillable-step", "exit 0", settings=settings, SLURM_JOBID="7", SLURM_STEPID="4294967291")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert {line.split()[0] for line in asked} == {"unix:///run/other.sock"}
    assert [line.split("?")[1] for line in asked] == ["job=7&uid=5", "job=7&step=12", "job=7&step=batch"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("job", ["", "0x7", "7;id", "$(id)", "-1", "7 8", "99999999999999999999"])
def test_what_is_no_job_is_asked_for_nowhere(run: Run, tmp_path: Path, hook: str, job: str) -> None:
    ran = run(hook, "exit 0", SLURM_JOB_ID=job, SLURM_JOB_UID="5", SLURM_STEP_ID="0")
    assert hook != "epilog" or ran.returncode == 0
    assert not (tmp_path / "asked").exists()


def test_mistakes_in_the_settings_are_not_run_and_drain_nothing(run: Run, tmp_path: Path) -> None:
    settings = f"DEADLINE=soon\n`touch {tmp_path}/ran`\nLOG=$(touch {tmp_path}/ran)\n'unclosed\nUNKNOWN=1\n=\nDEADLINE"
    assert run("epilog", "exit 0", settings=settings, SLURM_JOB_ID="7").returncode == 0
    assert not (tmp_path / "ran").exists()
    assert "--timeout 15s" in (tmp_path / "asked").read_text()


def test_an_epilog_alone_of_what_belongs_to_it_lets_the_job_end(run: Run, hooks: Path) -> None:
    run("epilog", "exit 0", SLURM_JOB_ID="7")
    (hooks / "mrelease.conf").unlink()
    (hooks / "hooks.sh").unlink()
    assert subprocess.run([hooks / "epilog"], env={"SLURM_JOB_ID": "7"}, check=False).returncode == 0


def test_an_epilog_that_goes_by_cgroups_asks_nobody_where_none_is_left(run: Run, tmp_path: Path) -> None:
    # Slurm's job numbers have 26 bits.
    assert run("epilog", "exit 3", settings="ONLY_CGROUPS=yes\nDRAIN_WHEN_HELD=yes", SLURM_JOB_ID="4000000001").returncode == 0
    assert not (tmp_path / "asked").exists()


def test_the_settings_that_are_documented_are_those_that_are_read() -> None:
    documented = re.findall(r"^#([A-Z_]+)=", (DEPLOY / "mrelease.conf").read_text(), re.MULTILINE)
    read = re.findall(r"^      ([A-Z_]+)\)", (DEPLOY / "hooks.sh").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(read)


def test_scancel_release_takes_jobs_and_nothing_else(tmp_path: Path) -> None:
    for tool in ("scancel", "squeue", "mrelease"):
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{tool} $*" >> {tmp_path}/asked\n[ {tool} != scancel ] || [ "$1" != 13 ]\n')
        (tmp_path / tool).chmod(0o755)

    def cancel(*arguments: str) -> int:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run([DEPLOY / "scancel-release", *arguments], env=environment, stderr=subprocess.DEVNULL, check=False).returncode

    for wrong in ((), ("--all",), ("7;id",), ("-1",), ("--wait", "x", "7"), ("7", "--user=root"), ("",)):
        assert cancel(*wrong) == 2
    assert not (tmp_path / "asked").exists()
    # Where Slurm refuses nothing is killed, and the others are still asked for.
    assert cancel("--wait", "0", "13", "1234_5.0") == 1
    assert (tmp_path / "asked").read_text().splitlines() == ["scancel 13", "scancel 1234_5.0", "mrelease kill --yes slurm://1234_5.0"]


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        raise lab.Unavailable("shellcheck is not installed")
    programs = [str(DEPLOY / name) for name in (*PROGRAMS, "hooks.sh")]
    ran = subprocess.run(
        ["shellcheck", "--external-sources", *programs], cwd=DEPLOY.parents[1], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
