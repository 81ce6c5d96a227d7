"""The unit of deploy/systemd: systemd takes it, its exposure stays low, and an agent under its sandbox does all that it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from mrelease import Boost, Feature, Process
from mrelease_agent.boosting.trees import Trees
from support import lab
from support.agent import Agent, running_agent
from support.markdown import ROOT
from support.privileges import LEAST, tool
from support.unit_file import Unit

PATH = ROOT / "deploy" / "systemd" / "mrelease-agent.service"
SIZE = 32 * lab.MIB
#: Exposure of systemd-analyze security, tenths: what it is now, and not more.
EXPOSURE = 30
#: What an agent of this unit makes beyond any server, and what it must not be able to make.
NEEDED = {
    "process_mrelease", "pidfd_open", "pidfd_send_signal", "kcmp", "process_vm_readv", "get_robust_list", "mlockall", "openat2",
    "setpriority", "sched_setscheduler", "sched_setaffinity", "chown", "fchown",
}  # fmt: skip
FORBIDDEN = {
    "ptrace", "bpf", "mount", "unshare", "setns", "init_module", "kexec_load", "keyctl", "process_vm_writev", "setuid", "capset", "chroot",
    "perf_event_open", "open_by_handle_at", "userfaultfd", "io_uring_setup", "reboot", "swapon", "pivot_root",
}  # fmt: skip


@pytest.fixture(scope="module")
def unit() -> Unit:
    return Unit(PATH)


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("systemd-analyze"), *arguments], capture_output=True, text=True, check=False)


def need_offline() -> None:
    version = int(analyze("--version").stdout.split()[1])
    if version < 250:
        raise lab.Unavailable(f"systemd-analyze {version} cannot judge a unit without a running systemd")


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Every directive is known and has a value that it may have: ``verify`` warns, and ends with 0, where not."""
    copy = tmp_path / PATH.name
    copy.write_text(PATH.read_text().replace("/opt/mrelease/bin/mrelease-agent", "/bin/true"))
    done = analyze("verify", str(copy))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_its_exposure_is_low() -> None:
    need_offline()
    done = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(PATH))
    assert done.returncode == 0, done.stdout


def test_a_worse_unit_would_be_noticed(tmp_path: Path) -> None:
    need_offline()
    worse = tmp_path / PATH.name
    worse.write_text(PATH.read_text().replace("ProtectSystem=strict\n", "").replace("NoNewPrivileges=yes\n", ""))
    assert analyze("security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", str(worse)).returncode != 0


def test_it_gives_what_was_measured_as_the_least(unit: Unit) -> None:
    assert set(unit.capabilities) == set(LEAST)
    assert unit["AmbientCapabilities"] == ""


def test_its_filter_allows_what_the_agent_needs_and_answers_instead_of_killing(unit: Unit) -> None:
    calls = unit.calls()
    assert calls >= NEEDED
    assert sorted(calls & FORBIDDEN) == []
    assert unit["SystemCallErrorNumber"] == "EPERM"


def test_its_example_configuration_is_one(unit: Unit) -> None:
    command = [sys.executable, "-m", "mrelease_agent", "--config", str(PATH.with_name("agent.yaml")), "--print-config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "RUNTIME_DIRECTORY": "/run/mrelease"})
    assert done.returncode == 0, done.stderr
    assert "unix:///run/mrelease/agent.sock" in done.stdout
    assert unit["RuntimeDirectory"] == "mrelease"


@pytest.fixture(scope="module")
def sandboxed(unit: Unit, tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent, None, None]:
    """An agent under the unit's sandbox; its folders in the hierarchies are made as ExecStartPre= makes them."""
    lab.need_root("a mount namespace, and giving capabilities up")
    subprocess.run(unit.before_start(), check=True)
    folder = tmp_path_factory.mktemp("unit")
    with running_agent(folder / "run", prefix=unit.prefix(folder / "run", folder / "calls")) as agent:
        yield agent


def test_the_sandbox_is_on(sandboxed: Agent, unit: Unit) -> None:
    fields = lab.status_fields(sandboxed.pid)
    numbers = {"kill": 5, "ipc_lock": 14, "sys_ptrace": 19, "sys_nice": 23}  # linux/capability.h
    assert int(fields["CapBnd"], 16) == int(fields["CapEff"], 16) == sum(1 << numbers[name] for name in unit.capabilities)
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    options = {line.split()[4]: line.split()[5].split(",")[0] for line in Path(f"/proc/{sandboxed.pid}/mountinfo").read_text().splitlines()}
    assert options["/"] == options["/proc/sys"] == "ro"
    assert sorted(path.name for path in Path(f"/proc/{sandboxed.pid}/root/dev").iterdir() if path.is_char_device()) == [
        "full", "null", "random", "tty", "urandom", "zero",
    ]  # fmt: skip


def test_nothing_is_off_under_it_that_root_has(sandboxed: Agent, agent: Agent) -> None:
    """But for the folder at the top of the hierarchies, which any other agent of this machine may have removed since."""
    with sandboxed.client() as node, agent.client() as free:
        here = {found.feature: found for found in node.get_node().capabilities}
        there = {found.feature: found for found in free.get_node().capabilities}
    lost = {feature: found.reason for feature, found in there.items() if found.available and not here[feature].available}
    if Feature.BOOST_EVACUATION in lost:
        assert "mrelease.boost cannot be made" in here[Feature.BOOST_EVACUATION].reason
        assert "deploy/systemd" in here[Feature.BOOST_EVACUATION].remedy
        del lost[Feature.BOOST_EVACUATION]
    assert not lost


@pytest.mark.parametrize("boost", [Boost.NONE, Boost.PRIORITY, Boost.LIFT])
def test_memory_is_back_under_it_whoever_the_victim_belongs_to(sandboxed: Agent, boost: Boost) -> None:
    with sandboxed.client() as node, lab.live(SIZE, uid=lab.NOBODY) as victim, lab.hold_at_exit(victim):
        if boost is Boost.LIFT and not node.get_node().can(Feature.BOOST_LIFT):
            raise lab.Unavailable("no CPU weights can be written here")
        result = node.kill_and_release(Process(victim.pid), boost=boost)
        assert result.is_released
        assert result.released_bytes >= SIZE * 0.98
        assert lab.rss_anon(victim.pid) < SIZE * 0.01


def test_it_sees_and_streams_under_it(sandboxed: Agent) -> None:
    with sandboxed.client() as node, lab.clone_vm_sharer(SIZE, uid=lab.NOBODY) as victim:
        found = {info.pid: info for info in node.list_processes(limit=None)}
        assert victim.sharer_pid in found[victim.pid].sharing_pids
        sample = next(iter(node.watch_memory(interval=0.1)))
        assert sample.memory is not None
        assert sample.memory.total_bytes > 0


def test_before_it_starts_the_folder_of_the_leaves_is_there(unit: Unit) -> None:
    lab.need_root("a cgroup at the top")
    trees = Trees.find().all()
    if not trees:
        raise lab.Unavailable("no hierarchy with CPU weights is mounted")
    made = json.dumps(unit.before_start())
    for tree in trees:
        if tree.mount.path in made:
            lab.until(partial(folder_is_there, unit, Path(tree.mount.path)), f"{tree.mount.path} has the folder")


def folder_is_there(unit: Unit, top: Path) -> bool:
    subprocess.run(unit.before_start(), check=True)  # another agent of this machine may remove it as long as it is empty
    return (top / "mrelease.boost").is_dir()
