"""A node in the state that the agent is there for: no memory, no CPU time. Requests go on being served, and the agent is no victim."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Client, Process
from support import lab, raw
from support.agent import Agent, agent_command, clean_environment, running_agent
from support.lab import MIB

#: Takes memory in its group, killed by the OOM killer again and again, until stdin ends.
_GLUTTON = """
import ctypes, os, select, signal
libc = ctypes.CDLL(None)
while not select.select([0], [], [], 0)[0]:
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        held = []
        while True:
            held.append(b"x" * (1 << 20))
    _, status = os.waitpid(pid, 0)
    os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(status))
"""
#: Never sleeps, before others if it may; says in which class it is.
_HOG = """
import os
try:
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("rr", flush=True)
except PermissionError:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except PermissionError:
        pass
    print("other", flush=True)
while True:
    pass
"""


def joining(group: lab.Cgroup) -> tuple[str, ...]:
    """In front of a command: it starts in the group."""
    return ("/bin/sh", "-c", f"echo $$ > '{group.path}/cgroup.procs' && exec \"$@\"", "sh")


def limit(group: lab.Cgroup, size: int) -> None:
    group.write("memory.max" if group.version == 2 else "memory.limit_in_bytes", str(size))


@contextlib.contextmanager
def glutton(group: lab.Cgroup) -> Generator[subprocess.Popen[str], None, None]:
    """Memory is taken in the group until the OOM killer is at work, and on; its children are its victims."""
    command = [*joining(group), sys.executable, "-E", "-s", "-S", "-c", _GLUTTON]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_oom(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline() == f"{-signal.SIGKILL}\n"


def served(node: Client) -> None:
    assert node.get_node().identity.name
    with lab.live(MIB) as victim:
        assert node.kill_and_release(Process(victim.pid)).is_released


def test_in_a_memory_cgroup_where_the_oom_killer_is_at_work_requests_are_served(run_dir: Path) -> None:
    """The agent is in the full group itself: the kernel takes the one that takes the memory, and the agent finds what it needs."""
    with lab.memory_cgroup() as group:
        limit(group, 160 * MIB)
        with running_agent(run_dir, prefix=joining(group)) as agent, agent.client() as node:
            served(node)
            with glutton(group) as full:
                wait_oom(full, 2)
                for _ in range(3):
                    served(node)
                    with agent.client() as another, raw.caller(agent.address) as call:
                        assert another.get_node().identity.name
                        assert call(raw.HEALTH, b"").body == raw.SERVING
                wait_oom(full, 1)
            assert agent.process.poll() is None


@contextlib.contextmanager
def hogs() -> Generator[set[str], None, None]:
    """One on each CPU that never sleeps; the classes that they are in."""
    with contextlib.ExitStack() as stack:
        said: set[str] = set()
        for cpu in sorted(os.sched_getaffinity(0)):
            hog = stack.enter_context(
                subprocess.Popen(
                    ["taskset", "-c", str(cpu), sys.executable, "-E", "-s", "-S", "-c", _HOG], stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(hog.kill)
            assert hog.stdout is not None
            said.add(hog.stdout.readline().strip())
        yield said


def test_with_hogs_of_a_higher_class_on_every_cpu_requests_are_served(run_dir: Path) -> None:
    """Real time where this user may have it, of which the kernel leaves others 5 %; else the highest priority."""
    with running_agent(run_dir) as agent, agent.client() as node, lab.live(MIB) as victim, hogs() as classes:
        assert classes <= {"rr", "other"}
        assert node.get_node().identity.name
        assert node.kill_and_release(Process(victim.pid)).is_released
        with raw.caller(agent.address) as call:
            assert call(raw.HEALTH, b"").body == raw.SERVING


def locked(agent: Agent) -> int:
    return lab.field_bytes(agent.pid, "VmLck")


def test_its_memory_stays_in_ram_where_that_is_permitted_and_is_no_more_for_it(run_dir: Path) -> None:
    lab.need_root("to lock memory")
    with running_agent(run_dir, "--lock-memory", "on") as agent, agent.client() as node:
        served(node)
        with_lock = lab.field_bytes(agent.pid, "VmRSS")
        assert locked(agent) > with_lock
    with running_agent(run_dir, "--lock-memory", "off") as agent, agent.client() as node:
        served(node)
        assert locked(agent) == 0
        assert with_lock < lab.field_bytes(agent.pid, "VmRSS") + 4 * MIB


#: Without CAP_IPC_LOCK and CAP_SYS_RESOURCE; a number of bytes may be locked, which is not enough.
WITHOUT = ("setpriv", "--bounding-set=-ipc_lock,-sys_resource", "--inh-caps=-ipc_lock,-sys_resource")


def test_where_it_is_not_permitted_the_agent_says_what_to_change_and_serves(run_dir: Path) -> None:
    prefix = WITHOUT if os.geteuid() == 0 else ()
    with running_agent(run_dir, prefix=prefix) as agent, agent.client() as node:
        served(node)
        assert locked(agent) == 0
        assert "key=lock_memory" in agent.log
        assert "LimitMEMLOCK=infinity" in agent.log
    command = [*prefix, *agent_command("--listen", f"unix://{run_dir}/agent.sock", "--lock-memory", "on")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
    assert ended.returncode == 1
    assert "cannot lock memory, and lock_memory is on: no CAP_IPC_LOCK" in ended.stderr
    assert "Traceback" not in ended.stderr


def score(agent: Agent) -> int:
    return int(Path(f"/proc/{agent.pid}/oom_score_adj").read_text())


def test_the_oom_killer_takes_others_first_where_that_is_permitted(run_dir: Path) -> None:
    before = int(Path("/proc/self/oom_score_adj").read_text())
    with running_agent(run_dir) as agent:
        if score(agent) != -999:
            assert score(agent) == before
            assert "OOMScoreAdjust=-999" in agent.log
    raised = ("/bin/sh", "-c", 'echo 500 > /proc/self/oom_score_adj && exec "$@"', "sh")
    with running_agent(run_dir, "--oom-score-adj", "null", prefix=raised) as agent:
        assert score(agent) == 500
    # Down to where it was is permitted to all who were once there.
    with running_agent(run_dir, "--oom-score-adj", str(before), prefix=raised) as agent:
        assert score(agent) == before
    with running_agent(run_dir, "--oom-score-adj", "700", prefix=raised) as agent:
        assert score(agent) == 500  # it is never raised


@pytest.mark.parametrize("value", ["-1001", "1001", "low"])
def test_scores_that_there_are_not_are_refused(run_dir: Path, value: str) -> None:
    command = agent_command("--listen", f"unix://{run_dir}/agent.sock", "--oom-score-adj", value)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
    assert ended.returncode == 2
    assert "write a whole number from -1000 to 1000 or null" in ended.stderr
