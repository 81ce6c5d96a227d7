"""What an agent never kills because its configuration says so: users, names, cgroups, scores, namespaces."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from mrelease import Cgroup, Container, Pod, Process, errors
from support import lab, protected
from support.agent import PATIENCE, running_agent
from support.lab.cgroups import cgroup_below
from support.protection import KUBELET, SIZE, dies, new_pod, path_of, refused


@pytest.fixture
def here() -> Generator[lab.Cgroup]:
    with lab.memory_cgroup() as group:
        yield group


# Configured


def test_users_names_cgroups_and_scores_that_are_configured(here: lab.Cgroup, run_dir: Path, tmp_path: Path) -> None:
    lab.need_root("another user's process")
    sleep = shutil.which("sleep")
    assert sleep
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(cgroup_below(here, "kept/below"))
        beside = stack.enter_context(cgroup_below(here, "kept-not"))
        flags = (
            *("--protected-users", str(lab.NOBODY), "--protected-names", "slurmd,x"),
            *("--protected-cgroups", f"/nowhere,{path_of(here)}/kept", "--protected-oom-score-adj", "-998"),
        )
        node = stack.enter_context(stack.enter_context(running_agent(run_dir, *flags)).client())
        named = stack.enter_context(subprocess.Popen([shutil.copy(sleep, tmp_path / "slurmd"), "1000"]))
        stack.callback(named.kill)
        assert refused(node, Process(named.pid)) == ("protected-name", named.pid)
        for victim, expected in (
            (stack.enter_context(lab.live(SIZE, uid=lab.NOBODY)), "protected-user"),
            (stack.enter_context(lab.live(SIZE, within=[kept])), "protected-cgroup"),
        ):
            assert refused(node, Process(victim.pid)) == (expected, victim.pid)
            assert not victim.exited(0)
        assert refused(node, Cgroup(path_of(kept)))[0] == "protected-cgroup"
        assert dies(node, stack.enter_context(lab.live(SIZE, within=[beside])))


def test_who_would_be_the_oom_killers_last_choice_is_protected(run_dir: Path) -> None:
    """Only CAP_SYS_RESOURCE may lower a score below 0, tests/vm does; the rule is the same at another height."""
    with (
        running_agent(run_dir, "--protected-oom-score-adj", "799") as agent,
        agent.client() as node,
        lab.live(SIZE) as important,
        lab.live(SIZE) as expendable,
    ):
        Path(f"/proc/{expendable.pid}/oom_score_adj").write_text("800")
        assert refused(node, Process(important.pid)) == ("oom-score-adj", important.pid)
        assert dies(node, expendable)
        assert not important.exited(0)


def test_one_protected_process_saves_the_whole_group(here: lab.Cgroup, run_dir: Path) -> None:
    lab.need_root("another user's process")
    cid = secrets.token_hex(32)
    with (
        running_agent(run_dir, "--protected-users", str(lab.NOBODY)) as agent,
        agent.client() as node,
        cgroup_below(here, f"docker/{cid}") as group,
        lab.live(SIZE, within=[group]) as first,
        lab.live(SIZE, uid=lab.NOBODY, within=[group]) as kept,
        lab.live(SIZE, within=[group]) as last,
    ):
        for target in (Container(cid), Cgroup(path_of(group))):
            assert refused(node, target) == ("protected-user", kept.pid)
            with pytest.raises(errors.Protected):
                node.kill_and_release(target, validate_only=True)
        assert not any(victim.exited(0) for victim in (first, kept, last))
        assert dies(node, first)


def test_pods_of_a_protected_namespace_are_left_alone(here: lab.Cgroup, run_dir: Path, tmp_path: Path) -> None:
    (system, system_path), (team, team_path) = new_pod(), new_pod()
    logs = tmp_path / "pods"
    for name in (f"kube-system_coredns-1_{system}", f"ml_trainer_{team}"):
        (logs / name).mkdir(parents=True, mode=0o755)
    logs.chmod(0o755)
    with (
        cgroup_below(here, system_path) as dns,
        cgroup_below(here, team_path) as trainers,
        lab.live(SIZE, within=[dns]) as resolver,
        lab.live(SIZE, within=[trainers]) as trainer,
        running_agent(run_dir, "--pod-logs", str(logs)) as agent,
        agent.client() as node,
    ):
        for target in (Pod(system), Process(resolver.pid), Container(Path(system_path).name)):
            assert refused(node, target) == ("protected-namespace", resolver.pid)
        node.kill_and_release(Pod(team))
        assert trainer.exited()
        assert not resolver.exited(0)


def judged(command: Sequence[str], pid: int) -> list[str]:
    """Rules for a process, with a kubelet's socket in the network namespace of pid 1, and without."""
    program = [sys.executable, protected.__file__, str(pid), KUBELET]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([*command, *program], capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    if said.stderr.startswith("unshare:"):
        raise lab.Unavailable(said.stderr.strip())
    assert not said.returncode, said.stderr
    return said.stdout.split()


def test_a_pod_whose_namespace_is_not_known_is_protected_where_a_kubelet_runs(here: lab.Cgroup) -> None:
    lab.need_root("namespaces")
    _, path = new_pod()
    procs = f"{here.path}/{path}/cgroup.procs"
    script = f'echo $$ >{procs}; sleep 1000 & echo $$ >{here.path}/cgroup.procs; mount -t tmpfs tmpfs /var/lib; exec "$@"'
    with cgroup_below(here, path):
        # pid 1 there is the shell, then the judge; pid 2 the process in the pod.
        namespaces = ["unshare", "--pid", "--mount-proc", "--net", "--fork", "--kill-child", "sh", "-c", script, "sh"]
        assert judged(namespaces, 2) == ["unverified", "None"]
