"""The breaker of a running agent: a caller that runs wild kills at most the limit, and is told when it may go on."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest

from mrelease import Cgroup, Process, errors
from mrelease.v1 import release_service_pb2, target_pb2
from mrelease_agent.linux import cgroup_tree
from support import lab, raw, scrape
from support.agent import running_agent

LIMIT = 20
VICTIMS = 60
REQUESTS = 10_000
CALLERS = 32


@contextlib.contextmanager
def sleepers(count: int) -> Generator[list[subprocess.Popen[bytes]]]:
    with contextlib.ExitStack() as stack:
        made: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            made.append(stack.enter_context(subprocess.Popen(["/bin/sleep", "10000"])))
            stack.callback(made[-1].kill)
        yield made


def kill(pid: int) -> bytes:
    target = target_pb2.Target(process=target_pb2.ProcessTarget(pid=pid))
    return release_service_pb2.KillAndReleaseRequest(target=target).SerializeToString()


def test_a_caller_that_runs_wild_kills_at_most_the_limit(run_dir: Path) -> None:
    flags = ("--max-kills-per-caller", str(LIMIT), "--breaker-window", "1h", *scrape.FLAGS)
    with sleepers(VICTIMS) as victims, running_agent(run_dir, *flags) as agent:
        requests = [kill(victim.pid) for victim in victims]
        with raw.caller(agent.address) as caller, ThreadPoolExecutor(CALLERS) as pool:
            answers = list(pool.map(partial(caller, raw.KILL), (requests[number % VICTIMS] for number in range(REQUESTS))))
        assert len(answers) == REQUESTS
        codes = Counter(answer.code for answer in answers)
        assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED}
        dead = [victim for victim in victims if victim.poll() is not None]
        assert 0 < len(dead) <= LIMIT
        refused = [answer for answer in answers if answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert len(refused) > REQUESTS // 2
        for answer in refused:
            assert answer.details is not None
            assert answer.details.reason == "KILL_LIMIT"
            assert answer.details.retry_after is not None
            assert 0 < answer.details.retry_after <= 3600
        assert scrape.metric(agent, "mrelease_breaker_used", limit="max_kills_per_caller") == LIMIT
        assert scrape.metric(agent, "mrelease_breaker_limit", limit="max_kills_per_caller") == LIMIT
        assert scrape.metric(agent, "mrelease_breaker_refusals_total", limit="max_kills_per_caller") == len(refused)


def test_a_group_counts_each_of_its_processes_and_a_dry_run_and_a_release_none(run_dir: Path) -> None:
    tree = cgroup_tree.tree("memory")
    if tree is None:
        raise lab.Unavailable("no memory hierarchy is mounted")
    with (
        lab.memory_cgroup() as group,
        sleepers(4) as victims,
        running_agent(run_dir, "--max-kills", "3", "--breaker-window", "1h") as agent,
        agent.client() as node,
    ):
        for victim in victims:
            group.add(victim.pid)
        target = Cgroup(f"{tree.top.rstrip('/')}/{group.path.relative_to(tree.mount.path)}")
        for _ in range(5):
            assert len(node.kill_and_release(target, validate_only=True).processes) == 4
        with lab.live(lab.MIB) as dying, lab.hold_at_exit(dying):
            dying.kill()
            for _ in range(5):
                node.release(Process(dying.pid))
        with pytest.raises(errors.AgentError) as refused:
            node.kill_and_release(target)
        assert refused.value.reason == "KILL_LIMIT"
        assert refused.value.retry_after is None, "it alone is more than the limit: no time helps"
        assert (refused.value.metadata["limit"], refused.value.metadata["scope"]) == ("max_kills", "node")
        assert all(victim.poll() is None for victim in victims)
        victims[0].kill()
        victims[0].wait()
        node.kill_and_release(target)
        assert all(victim.wait() for victim in victims)


def test_what_comes_back_again_and_again_is_left_alone(run_dir: Path) -> None:
    with running_agent(run_dir, "--max-kills-per-target", "3", "--breaker-window", "1h") as agent, agent.client() as node:
        for _ in range(3):
            with sleepers(1) as (victim,):
                node.kill_and_release(Process(victim.pid))
                victim.wait()
        with sleepers(1) as (victim,):
            with pytest.raises(errors.AgentError) as refused:
                node.kill_and_release(Process(victim.pid))
            assert refused.value.metadata["scope"] == "target"
            assert refused.value.retry_after is not None
            assert victim.poll() is None
