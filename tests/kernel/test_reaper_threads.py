"""Reaper threads as the configuration has them: their CPUs, nice value and class, and the CPU time that they cost."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrelease import Process, Wait
from mrelease_agent.linux.own_thread import Refusal, ThreadScheduling, format_cpus, parse_cpus
from mrelease_agent.reaping.reapers import Reapers
from support import lab, scrape
from support.agent import Agent, agent_command, running_agent

#: Field numbers of proc_pid_stat(5), counted after the name.
NICE, POLICY = 16, 38


def threads_of(agent: Agent) -> list[tuple[int, int, str]]:
    """Nice value, policy and CPUs of each thread but the main one."""
    found: list[tuple[int, int, str]] = []
    for task in Path(f"/proc/{agent.pid}/task").iterdir():
        if task.name != str(agent.pid):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            cpus = next(line.split()[1] for line in (task / "status").read_text().splitlines() if line.startswith("Cpus_allowed_list:"))
            found.append((int(fields[NICE]), int(fields[POLICY]), cpus))
    return found


def own_nice(agent: Agent) -> int:
    return int(Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()[NICE])


def test_reaper_threads_have_the_cpus_and_nice_value_of_the_configuration_and_no_others(run_dir: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    flags = ("--reaper-threads", "3", "--reaper-nice", "7", "--reaper-cpus", str(cpu))
    with running_agent(run_dir, *flags) as agent:
        lab.until(lambda: threads_of(agent).count((7, os.SCHED_OTHER, str(cpu))) == 3, "three threads are as configured")
        assert own_nice(agent) != 7
        assert sum(nice == 7 for nice, _, _ in threads_of(agent)) == 3
        assert "key=reaper_" not in agent.log
        with lab.live() as victim, agent.client() as node:
            assert node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).is_released


def test_by_default_they_are_as_the_agent(run_dir: Path) -> None:
    with running_agent(run_dir) as agent:
        assert {nice for nice, _, _ in threads_of(agent)} == {own_nice(agent)}
        assert {policy for _, policy, _ in threads_of(agent)} == {os.sched_getscheduler(agent.pid)}


def test_real_time_is_taken_or_its_refusal_said(run_dir: Path) -> None:
    with running_agent(run_dir, "--reaper-threads", "2", "--reaper-class", "rr") as agent:
        lab.until(
            lambda: sum(policy == os.SCHED_RR for _, policy, _ in threads_of(agent)) == 2 or "key=reaper_class" in agent.log,
            "the threads are in the class, or the log says why not",
        )


@pytest.mark.parametrize(
    ("syscall", "flags", "key"),
    [
        ("sched_setscheduler", ("--reaper-class", "rr"), "reaper_class"),
        ("setpriority", ("--nice", "null", "--reaper-nice", "5"), "reaper_nice"),
        ("sched_setaffinity", ("--reaper-cpus", str(min(os.sched_getaffinity(0)))), "reaper_cpus"),
    ],
)
def test_what_the_kernel_refuses_is_logged_once_with_a_remedy_and_the_agent_serves(
    run_dir: Path, syscall: str, flags: tuple[str, ...], key: str
) -> None:
    prefix = lab.filtered([], error="EPERM", syscall=syscall)
    with running_agent(run_dir, *flags, "--reaper-threads", "4", prefix=prefix) as agent, agent.client() as node, lab.live() as victim:
        assert node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).is_released
        lab.until(lambda: f"key={key}" in agent.log, "the log says so")
        (line,) = [line for line in agent.log.splitlines() if "setting refused" in line and f"key={key}" in line]
        assert "remedy=" in line


def test_cpus_that_the_node_has_not_are_refused_at_the_start(tmp_path: Path) -> None:
    command = agent_command("--listen", f"unix://{tmp_path}/agent.sock", "--reaper-cpus", "0,9998-9999")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert ended.stderr.startswith('mrelease-agent: --reaper-cpus: reaper_cpus is "0,9998-9999": this node has no CPU "9998-9999": write')


def test_the_cpu_time_of_reaping_is_counted(run_dir: Path) -> None:
    with running_agent(run_dir, *scrape.FLAGS) as agent, agent.client() as node:
        assert scrape.metric(agent, "mrelease_reaper_cpu_seconds_total") == 0
        # Nothing but a reaper frees what is held at its exit.
        with lab.held_at_exit(64 * lab.MIB) as victim:
            victim.kill()
            assert node.release(Process(victim.pid)).is_released
        lab.until(lambda: scrape.metric(agent, "mrelease_reaper_cpu_seconds_total") > 0, "the CPU time is counted")


# The pool by itself


def with_reapers(work: Callable[[Reapers], Any], *arguments: Any, **more: Any) -> Any:
    async def run() -> Any:
        pool = Reapers(*arguments, **more)
        try:
            return await work(pool)
        finally:
            pool.close()

    return asyncio.run(run())


def test_a_thread_that_replaces_a_stuck_one_is_as_configured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrelease_agent.reaping.reapers.STUCK_AFTER", 0.01)
    cpu = min(os.sched_getaffinity(0))
    free = threading.Event()

    async def work(pool: Reapers) -> tuple[int, set[int]]:
        stuck = asyncio.ensure_future(pool.run(free.wait, 60))
        try:
            return await pool.run(lambda: (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)), 60)
        finally:
            free.set()
            await stuck

    assert with_reapers(work, 1, 1, ThreadScheduling(nice=19, cpus=frozenset({cpu}))) == (19, {cpu})
    assert os.getpriority(os.PRIO_PROCESS, 0) != 19


def test_cpus_that_nobody_has_are_a_refusal_told_once_and_the_threads_work() -> None:
    told: list[Refusal] = []

    async def work(pool: Reapers) -> list[set[int]]:
        return list(await asyncio.gather(*(pool.run(lambda: os.sched_getaffinity(0), 60) for _ in range(8))))

    found = with_reapers(work, 4, 1, ThreadScheduling(cpus=frozenset({9999})), warn=told.append)
    assert found == [os.sched_getaffinity(0)] * 8
    assert [refusal.setting for refusal in told] == ["cpus"]
    assert "9999" in told[0].reason


def test_a_call_that_burns_a_cpu_is_counted_and_one_that_waits_is_not() -> None:
    spent: list[float] = []
    lap = threading.Event()

    def burn() -> None:
        import time

        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    async def work(pool: Reapers) -> None:
        await pool.run(burn, 60)
        await asyncio.to_thread(lab.until, lambda: len(spent) == 1, "the first call is told")
        asyncio.get_running_loop().call_later(0.05, lap.set)
        await pool.run(lap.wait, 60)
        await asyncio.to_thread(lab.until, lambda: len(spent) == 2, "the second call is told")

    with_reapers(work, 1, 1, tell_cpu=spent.append)
    assert spent[0] >= 0.02 > spent[1]


@pytest.mark.parametrize(
    ("text", "cpus", "written"),
    [("", set[int](), ""), ("3", {3}, "3"), ("0-3,8", {0, 1, 2, 3, 8}, "0-3,8"), ("4,0,1-2,2", {0, 1, 2, 4}, "0-2,4")],
)
def test_lists_of_cpus(text: str, cpus: set[int], written: str) -> None:
    assert parse_cpus(text) == cpus
    assert format_cpus(frozenset(cpus)) == written
