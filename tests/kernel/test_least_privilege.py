"""What an agent loses with each privilege, measured: it starts, says what is off and what to change, and never claims what is not so."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import pytest

from mrelease import Boost, Client, Feature, Outcome, Process, Verdict, errors
from mrelease_agent.boosting.leaf import FOLDER
from mrelease_agent.boosting.trees import Trees
from support import lab
from support.agent import Agent, agent_command, clean_environment, running_agent
from support.privileges import CELLS, LEAST, MEASURED, Cell, Measured, needs_root, tool

SIZE = 16 * lab.MIB
#: What an agent asks for beyond what any server does, but for the calls without which there is no agent.
OPTIONAL = (
    "kcmp", "get_robust_list", "process_vm_readv", "sched_setscheduler", "sched_setaffinity", "setpriority", "openat2", "mlockall",
)  # fmt: skip
NEEDED = ("pidfd_open", "pidfd_send_signal")
ANSWERS = ("EPERM", "ENOSYS", "SIGSYS")
_PROBE = """
import json, sys
from mrelease_agent.boosting.booster import Booster
from mrelease_agent.linux.capabilities import probe
booster = Booster(None)
try:
    found = probe(nice=-10).plus(booster.features())
except OSError as error:
    sys.exit(error.strerror)
print(json.dumps({each.feature.name: [each.available, each.reason, each.remedy] for each in found}))
booster.close()
"""


@pytest.fixture
def run() -> Generator[Path, None, None]:
    """An agent's directory below one that other users can enter: pytest's own cannot be."""
    with tempfile.TemporaryDirectory(prefix="mrelease-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        path = Path(folder) / "run"
        path.mkdir(mode=0o700)
        yield path


@pytest.fixture(scope="module")
def folder_made_before() -> Generator[None, None, None]:
    """The agent's cgroup at the top of each hierarchy, as who deploys it makes it; an empty one would be removed by any other agent."""
    with contextlib.ExitStack() as stack:
        for tree in Trees.find().all() if os.geteuid() == 0 else ():
            folder = Path(tree.mount.path) / FOLDER
            kept = folder / f"test{os.getpid()}"
            lab.until(partial(made, kept), f"{kept} is made")
            fd = os.open(kept, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(remove, folder)
            stack.callback(remove, kept)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield


def made(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError, FileExistsError):  # another agent removes the folder as long as it is empty
        path.mkdir(parents=True)
    return path.is_dir()


def remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def kill(node: Client, uid: int | None) -> str:
    """Outcome of killing a process that cannot free itself, or the name of the refusal: then it lives."""
    with lab.live(SIZE, uid=uid) as victim, lab.hold_at_exit(victim):
        try:
            (killed,) = node.kill_and_release(Process(victim.pid)).processes
        except errors.AgentError as error:
            return refused(error, victim)
        if killed.outcome is Outcome.RELEASED:
            assert killed.released_bytes >= SIZE * 0.98
            assert lab.rss_anon(victim.pid) < SIZE * 0.01
        return killed.outcome.name


def refused(error: errors.AgentError, victim: lab.Victim) -> str:
    assert error.nothing_signalled
    assert error.remedy
    assert lab.rss_anon(victim.pid) >= SIZE
    return type(error).__name__


def sees_sharers(node: Client, uid: int | None) -> bool:
    with lab.clone_vm_sharer(SIZE, uid=uid) as victim:
        found = {info.pid: info.sharing_pids for info in node.list_processes(limit=None)}
        return victim.sharer_pid in found.get(victim.pid, ())


def measure(agent: Agent, cell: Cell) -> Measured:
    own, other = (cell.uid or None, None if cell.uid else lab.NOBODY) if os.geteuid() == 0 else (None, None)
    with agent.client() as node:
        off = {found.feature.name: found for found in node.get_node().capabilities if not found.available}
        assert all(found.reason and found.remedy for found in off.values()), off
        return Measured(
            lost=frozenset(off),
            own=kill(node, own),
            other=kill(node, other),
            sharing=sees_sharers(node, other),
            locked=lab.status_fields(agent.pid)["VmLck"] != "0 kB",
        )


@pytest.fixture(scope="module")
def everything(folder_made_before: None, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """What this machine gives to root with every capability."""
    lab.need_root("every privilege")
    with running_agent(tmp_path_factory.mktemp("root") / "run") as agent:
        return measure(agent, CELLS["root"])


def can_run(prefix: Sequence[str], run: Path) -> bool:
    """Whether this interpreter can be run so; for the test only, the file that is handed over to the agent's user exists."""
    (run / "notify").touch()
    done = subprocess.run([*prefix, sys.executable, "-c", "import mrelease_agent"], capture_output=True, check=False, cwd="/")
    return done.returncode == 0


@pytest.mark.parametrize("name", CELLS)
def test_what_is_lost_with_each_privilege(name: str, run: Path, everything: Measured) -> None:
    cell, expected = CELLS[name], MEASURED[name]
    needs_root(cell)
    prefix = cell.prefix(run)
    if cell.uid and not can_run(prefix, run):
        prefix = cell.prefix(run, reads_all=True)
    if not can_run(prefix, run):
        raise lab.Unavailable("the agent's user cannot run this interpreter, or there are no user namespaces")
    with running_agent(run, prefix=prefix) as agent:
        found = measure(agent, cell)
        assert agent.terminate() == 0
    # Where this machine cannot do a thing at all, nobody loses it.
    assert found.lost - everything.lost == expected.lost - everything.lost
    assert (found.own, found.other, found.sharing) == (expected.own, expected.other, expected.sharing)
    assert found.locked == (expected.locked and everything.locked)


def test_the_least_set_has_everything_but_the_right_to_make_a_cgroup_at_the_top() -> None:
    lab.need_root("giving up capabilities")
    tree = Trees.find().cpu
    if tree is None:
        raise lab.Unavailable("no hierarchy with the cpu controller is mounted")
    path = f"{tree.mount.path}/mrelease-test-{os.getpid()}"
    assert MEASURED["least"] == MEASURED["root"] == Measured()
    tried = subprocess.run([*given(*LEAST), "mkdir", path], capture_output=True, text=True, check=False)
    assert "Permission denied" in tried.stderr
    try:
        assert subprocess.run([*given(*LEAST, "dac_override"), "mkdir", path], check=False).returncode == 0
    finally:
        remove(Path(path))


def given(*caps: str) -> list[str]:
    bounding = ",".join(["-all", *(f"+{cap}" for cap in caps)])
    return [tool("setpriv"), "--bounding-set", bounding, "--inh-caps", bounding]


def filtered(command: list[str], calls: Sequence[str], answer: str) -> list[str]:
    for call in calls:
        command = lab.filtered(command, syscall=call, kill=answer == "SIGSYS", error=answer)
    return command


def probed(calls: Sequence[str], answer: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = filtered([sys.executable, "-c", _PROBE], calls, answer)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("answer", ANSWERS)
def test_calls_that_seccomp_forbids_are_named(answer: str) -> None:
    calls = ("process_mrelease", "kcmp", "get_robust_list", "process_vm_readv", "sched_setscheduler", "sched_setaffinity")
    done = probed(calls, answer)
    assert done.returncode == 0, done.stderr
    said: dict[str, tuple[bool, str, str]] = json.loads(done.stdout)
    for feature, named in (("PROCESS_MRELEASE", ["process_mrelease"]), ("COMPARE_MM", ["kcmp", "get_robust_list", "process_vm_readv"])):
        works, reason, remedy = said[feature]
        assert not works
        assert all(call in reason for call in named)
        assert "seccomp" in remedy
    if os.geteuid() == 0:  # nice values are left
        works, reason, _ = said["BOOST_PRIORITY"]
        assert works
        assert "nice -20" in reason
        assert "sched_setscheduler" in reason
        assert "sched_setaffinity" in reason


@pytest.mark.parametrize("answer", ANSWERS)
def test_priorities_that_seccomp_forbids_are_named(answer: str) -> None:
    done = probed(["setpriority", "sched_setscheduler"], answer)
    assert done.returncode == 0, done.stderr
    said: dict[str, tuple[bool, str, str]] = json.loads(done.stdout)
    for feature in ("RAISED_PRIORITY", "BOOST_PRIORITY"):
        works, reason, remedy = said[feature]
        assert not works
        assert "setpriority" in reason
        assert "seccomp" in remedy


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("call", NEEDED)
def test_without_pidfds_it_does_not_start_and_says_why(call: str, answer: str, run: Path) -> None:
    command = filtered(agent_command("--listen", f"unix://{run / 'agent.sock'}"), [call], answer)
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{call}(2)" in done.stderr
    assert "seccomp" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_agent_that_may_make_no_optional_call_serves_and_survives(answer: str, run: Path) -> None:
    with running_agent(run, prefix=filtered([], OPTIONAL, answer)) as agent, agent.client() as node:
        assert not node.get_node().can(Feature.COMPARE_MM)
        assert kill(node, None) == "RELEASED"
        assert not sees_sharers(node, None)
        with lab.clone_vm_sharer(SIZE) as shared:
            (killed,) = node.kill_and_release(Process(shared.pid), timeout=0.2).processes
            assert killed.outcome is Outcome.SHARED_MM
        with lab.live(SIZE) as victim, contextlib.suppress(errors.FeatureUnavailable):
            assert node.kill_and_release(Process(victim.pid), boost=Boost.PRIORITY).is_released
        assert agent.terminate() == 0


@pytest.mark.parametrize("answer", ANSWERS)
def test_without_process_mrelease_nothing_is_called_released_that_is_not(answer: str, run: Path) -> None:
    with running_agent(run, prefix=filtered([], ["process_mrelease"], answer)) as agent, agent.client() as node:
        assert not node.get_node().can(Feature.PROCESS_MRELEASE)
        with lab.live(SIZE) as victim, lab.hold_at_exit(victim):
            held = node.kill_and_release(Process(victim.pid), timeout=0.2)
            assert held.verdict is Verdict.HELD
            assert held.released_bytes == 0
        with lab.live(SIZE) as victim:
            (killed,) = node.kill_and_release(Process(victim.pid)).processes
            assert killed.outcome is Outcome.EXITED
            assert victim.exited()
        assert agent.terminate() == 0
