"""An agent at the limits of its own process: threads and memory. Descriptors are in test_concurrency.py.

It serves, refuses with the limit's name and signals nothing, or ends; never is a victim dead whose caller was told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mrelease import Cgroup, Client, HeldCause, Outcome, Process, Verdict, Wait, errors
from support import lab, raw, scrape
from support.agent import Agent, agent_command, clean_environment, running_agent
from support.crowd import crowd
from support.lab import MIB

#: What a burst may take beside what the idle agent has.
HEADROOM = 16 * MIB
SMALL = MIB // 4


def joining(group: lab.Cgroup) -> tuple[str, ...]:
    """In front of a command: it starts in the group."""
    return ("/bin/sh", "-c", f"echo $$ > '{group.path}/cgroup.procs' && exec \"$@\"", "sh")


@contextlib.contextmanager
def few_threads(count: int) -> Generator[tuple[str, ...]]:
    """In front of a command: it may have ``count`` threads, or none but its first where this user cannot make a cgroup."""
    if os.geteuid() != 0:
        lower = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); os.execv(sys.argv[1], sys.argv[1:])"
        yield (sys.executable, "-c", lower)
        return
    with lab.cgroup("pids") as group:
        group.write("pids.max", str(count))
        yield joining(group)


@contextlib.contextmanager
def thread_fence() -> Generator[Fence]:
    """To be entered before the agent, which has to be gone when its group is removed."""
    with contextlib.ExitStack() as stack:
        yield Fence(stack.enter_context(lab.cgroup("pids")) if os.geteuid() == 0 else None)


class Fence:
    """Lets an agent make no other thread: pids.max for root, whom RLIMIT_NPROC does not bind, else RLIMIT_NPROC."""

    def __init__(self, group: lab.Cgroup | None) -> None:
        self._group = group

    def close(self, agent: Agent) -> None:
        if self._group is None:
            resource.prlimit(agent.pid, resource.RLIMIT_NPROC, (0, resource.prlimit(agent.pid, resource.RLIMIT_NPROC)[1]))
            return
        self._group.add(agent.pid)
        self._group.write("pids.max", self._group.read("pids.current"))

    def open(self, agent: Agent) -> None:
        if self._group is None:
            hard = resource.prlimit(agent.pid, resource.RLIMIT_NPROC)[1]
            resource.prlimit(agent.pid, resource.RLIMIT_NPROC, (hard, hard))
        else:
            self._group.write("pids.max", "max")


def kill_all(node: Client, pids: list[int]) -> None:
    """Kill them from 32 threads at once; all are back."""

    def kill(pid: int) -> Verdict:
        return node.kill_and_release(Process(pid), wait=Wait.EXITED, timeout=60).verdict

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(kill, pids)) <= {Verdict.RELEASED, Verdict.EXITED}


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_with_too_few_threads_it_does_not_start_and_says_what_to_change(run_dir: Path, count: int) -> None:
    with few_threads(count) as prefix:
        command = [*prefix, *agent_command("--listen", f"unix://{run_dir}/agent.sock")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_environment(), check=False)
    assert ended.returncode == 1, ended
    assert re.search(r"needs \d+ threads and can have \d+", ended.stderr), ended.stderr
    assert "pids.max" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (run_dir / "agent.sock").exists()


def test_it_serves_everything_when_no_thread_can_be_made_any_more(run_dir: Path) -> None:
    with thread_fence() as fence, running_agent(run_dir, *scrape.FLAGS) as agent, agent.client() as node:
        assert scrape.get(agent, "/readyz")[0] == 200
        fence.close(agent)
        threads = len(lab.threads(agent.pid))
        with lab.live(MIB) as victim:
            assert node.kill_and_release(Process(victim.pid)).is_released
        with crowd(100, SMALL) as people:
            kill_all(node, people.pids)
        assert len(node.list_processes(limit=3)) == 3
        with pytest.raises(errors.TargetNotFound):
            node.kill_and_release(Cgroup("/no/such/group"))
        for page in ("/healthz", "/readyz", "/metrics"):
            assert scrape.get(agent, page)[0] == 200
        assert len(lab.threads(agent.pid)) <= threads
        fence.open(agent)


def test_a_stuck_reaper_that_cannot_be_replaced_refuses_the_next_request(run_dir: Path) -> None:
    """The one thread waits in the kernel, and no other can be made: nothing is killed that nobody could release."""
    flags = ("--reaper-threads", "1", "--max-stuck-reapers", "8")
    with (
        thread_fence() as fence,
        running_agent(run_dir, *scrape.FLAGS, *flags) as agent,
        agent.client() as node,
        lab.live(MIB) as victim,
        lab.mmap_locked() as locked,
    ):
        fence.close(agent)
        (held,) = node.kill_and_release(Process(locked.pid), timeout=0.5).processes
        assert held.outcome is Outcome.HELD
        scrape.wait_metric(agent, 1, "mrelease_reaper_threads", state="stuck")
        with raw.caller(agent.address) as call:
            raw.assert_refused(call(raw.KILL, raw.process(victim.pid)), grpc.StatusCode.RESOURCE_EXHAUSTED, "REAPERS_EXHAUSTED")
        assert not victim.exited(0)
        fence.open(agent)
        # The limit is gone, the thread still stuck: it is replaced now.
        assert node.kill_and_release(Process(victim.pid)).is_released
        locked.let_go()
        scrape.wait_metric(agent, 0, "mrelease_reaper_threads", state="stuck")


def limit_memory(group: lab.Cgroup, headroom: int) -> None:
    """Let the group take ``headroom`` bytes beside what it has."""
    group.write("memory.max" if group.version == 2 else "memory.limit_in_bytes", str(group.usage() + headroom))


def oom_kills(group: lab.Cgroup) -> int:
    """How often the kernel has killed for the group's limit."""
    text = group.read("memory.events" if group.version == 2 else "memory.oom_control")
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


def test_a_burst_fits_into_a_tight_memory_cgroup(run_dir: Path) -> None:
    with lab.memory_cgroup() as group, running_agent(run_dir, prefix=joining(group)) as agent, agent.client() as node:
        with lab.live(MIB) as victim:
            assert node.kill_and_release(Process(victim.pid)).is_released
        limit_memory(group, HEADROOM)
        with crowd(300, SMALL) as people, ThreadPoolExecutor(16) as pool:
            lists = [pool.submit(node.list_processes, limit=None) for _ in range(16)]
            kill_all(node, people.pids)
            assert all(listed.result(60) for listed in lists)
        assert oom_kills(group) == 0
        assert agent.process.poll() is None


#: Fills the memory that is left in a group with what nobody's death gives back but its own.
_FILL = """
import os, sys
open(sys.argv[1], "w").write("0")
fd = os.memfd_create("fill")
while True:
    os.write(fd, bytes(1 << 18))
"""


@contextlib.contextmanager
def filling(group: lab.Cgroup) -> Generator[None]:
    """Fills the group until somebody in it is killed, and on until it is itself."""
    with subprocess.Popen([sys.executable, "-E", "-s", "-S", "-c", _FILL, str(group.path / "cgroup.procs")]) as filler:
        try:
            yield
        finally:
            filler.kill()


def outcome_of(node: Client, pid: int) -> str:
    """ "killed", "nothing" was signalled, or "unknown": what the caller is told."""
    try:
        node.kill_and_release(Process(pid), wait=Wait.EXITED, timeout=60)
    except errors.AgentError as error:
        return "nothing" if error.nothing_signalled else "unknown"
    return "killed"


def test_killed_for_want_of_memory_it_has_told_nobody_anything_wrong(run_dir: Path) -> None:
    """The kernel kills the agent amid its work: no caller believes its victim alive that is dead, or dead that is alive."""
    with lab.memory_cgroup() as group, crowd(300, SMALL) as people, lab.mmap_locked(MIB) as locked:
        with running_agent(run_dir, prefix=joining(group)) as agent, agent.client() as node, ThreadPoolExecutor(17) as pool:
            # Of several candidates the kernel takes the agent.
            Path(f"/proc/{agent.pid}/oom_score_adj").write_text("1000")
            limit_memory(group, HEADROOM)
            stuck = pool.submit(outcome_of, node, locked.pid)
            lab.until(lambda: lab.state(locked.pid) == "D", "the victim is killed, and waits for the lock")
            told = [pool.submit(outcome_of, node, pid) for pid in people.pids]
            with filling(group):
                assert agent.process.wait(60) == -signal.SIGKILL
            assert oom_kills(group) >= 1
            assert stuck.result(60) == "unknown"
            answers = [answer.result(60) for answer in told]
        dead = [lab.state(pid) in ("Z", "X", "") for pid in people.pids]
        assert not [pid for pid, said, gone in zip(people.pids, answers, dead, strict=True) if said == "nothing" and gone]
        assert not [pid for pid, said, gone in zip(people.pids, answers, dead, strict=True) if said == "killed" and not gone]
        # What it had killed stays killed, and the next agent takes over.
        with running_agent(run_dir) as agent, agent.client() as node:
            (held,) = node.release(Process(locked.pid), timeout=0.5).processes
            assert held.outcome is Outcome.HELD
            assert held.held_cause is HeldCause.MMAP_LOCK
            locked.let_go()
            assert locked.exited()
            for pid, gone in zip(people.pids[-10:], dead[-10:], strict=True):
                if not gone:
                    assert node.kill_and_release(Process(pid)).is_released
