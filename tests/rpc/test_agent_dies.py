"""The agent is killed in mid-operation: what it left behind at each step, and what the next one finds, restores and says."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Boost, Client, Process, errors
from mrelease_agent.linux import cgroup_tree
from support import lab, scrape, seam_agent
from support.agent import Agent, running_agent

SIZE = 16 * lab.MIB
#: Steps after which SIGKILL is out.
KILLED = ("kill", "lift", "reap", "prove")
#: How the victim has to be helped for a step to come at all.
BOOSTS = {"evacuate": Boost.EVACUATION, "lift": Boost.LIFT}


def identity(node: Client, pid: int) -> Process:
    return next(row.process for row in node.list_processes(limit=None) if row.pid == pid)


def weights(pid: int) -> list[tuple[str, bytes]]:
    """The cgroup of a process and those above it, each with its CPU weight."""
    tree = cgroup_tree.tree("cpu")
    assert tree is not None
    proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY)
    try:
        path = tree.path_of(proc)
    finally:
        os.close(proc)
    found: list[tuple[str, bytes]] = []
    while path and path != tree.top:
        fd = tree.open(path)
        try:
            found.append((path, cgroup_tree.read(fd, "cpu.weight" if tree.version == 2 else "cpu.shares")))
        finally:
            os.close(fd)
        path = path.rpartition("/")[0] or "/"
    return found


@contextlib.contextmanager
def dying_agent(folder: Path, step: str) -> Generator[Agent, None, None]:
    """An agent that kills itself after ``step``."""
    with running_agent(folder, *scrape.FLAGS, "--log-format", "json", prefix=seam_agent.seam("die", step)) as agent:
        yield agent


@pytest.mark.parametrize("step", seam_agent.STEPS)
def test_what_it_leaves_behind(step: str, run_dir: Path) -> None:
    boost = BOOSTS.get(step, Boost.UNSPECIFIED)
    grace = 60.0 if step == "grace" else 0.0
    request_id = str(uuid.uuid4())
    with contextlib.ExitStack() as stack:
        low = [stack.enter_context(lab.cpu_cgroup())] if boost else []
        victim = stack.enter_context(lab.live(SIZE, within=low))
        before = weights(victim.pid)
        agent = stack.enter_context(dying_agent(run_dir, step))
        hold = stack.enter_context(lab.hold_at_exit(victim)) if step in KILLED else None
        with agent.client() as node:
            target = identity(node, victim.pid)
            with pytest.raises(errors.ConnectionLost) as caught:
                node.kill_and_release(target, request_id=request_id, boost=boost, grace_period=grace, timeout=60)
            assert not caught.value.nothing_signalled
        assert agent.process.wait(60) == -signal.SIGKILL
        if hold is not None:
            hold.wait_held()
        else:
            assert not victim.exited(0) or step == "grace"
        # The next one, on the same socket, puts back what was changed and serves.
        following = stack.enter_context(running_agent(run_dir, "--log-format", "json"))
        assert weights(victim.pid) == before
        with following.client() as node:
            with pytest.raises(errors.OperationNotFound):
                list(node.watch_release(request_id))
            if step in BOOSTS:
                assert scrape.wait_event(following, "recovered")
            if step in KILLED:
                # It has not forgotten to die: what is left is released without another signal.
                assert node.release(target).is_released
            elif not victim.exited(0):
                assert node.kill_and_release(target).is_released
