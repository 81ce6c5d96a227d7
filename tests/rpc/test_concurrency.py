"""Many at once, and an agent at its limits: every answer is right, and who asks for something else is served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Awaitable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from mrelease import AsyncClient, Client, Outcome, Process, Proof, ReleaseResult, Wait, errors
from support import lab, raw, scrape, seam_agent
from support.agent import Agent, running_agent
from support.crowd import crowd

COUNT = 300
SIZE = lab.MIB
HEALTH_DEADLINE = 15.0
"""Seconds that a health check may take beside hundreds of operations on a busy machine: a stall, not slowness, is what fails."""


async def beside_health_checks(address: str, work: Awaitable[list[ReleaseResult]]) -> list[ReleaseResult]:
    """Do the work while Health.Check is asked without a pause; each check is answered by its deadline."""
    task = asyncio.ensure_future(work)
    checks = 0
    connection: Any = grpc.aio.insecure_channel(address)
    async with connection:
        check = connection.unary_unary(raw.HEALTH)
        while not task.done():
            assert await check(b"", timeout=HEALTH_DEADLINE) == raw.SERVING
            checks += 1
    assert checks
    return await task


async def test_kill_300_at_once(agent: Agent) -> None:
    with crowd(COUNT, SIZE) as people:
        async with AsyncClient(agent.address) as node:
            kills = (node.kill_and_release(Process(pid), wait=Wait.EXITED, timeout=60) for pid in people.pids)
            results = await beside_health_checks(agent.address, asyncio.gather(*kills))
        for pid, result in zip(people.pids, results, strict=True):
            (process,) = result.processes
            assert process.pid == pid
            assert process.outcome in (Outcome.RELEASED, Outcome.EXITED), process
            assert process.proof is not Proof.UNSPECIFIED
            assert result.released_bytes >= SIZE * 0.98
            assert process.exit_duration is not None
            assert lab.state(pid) == "Z"


async def test_release_300_at_once(agent: Agent) -> None:
    """All are killed already and stand at their exit: only process_mrelease(2) gives their memory back."""
    with crowd(COUNT, SIZE) as people:
        people.kill_and_hold()
        async with AsyncClient(agent.address) as node:
            releases = (node.release(Process(pid), timeout=60) for pid in people.pids)
            results = await beside_health_checks(agent.address, asyncio.gather(*releases))
        for pid, result in zip(people.pids, results, strict=True):
            (process,) = result.processes
            assert process.pid == pid
            assert process.outcome is Outcome.RELEASED, process
            assert process.proof is Proof.RELEASE
            assert result.released_bytes >= SIZE * 0.98
            assert lab.rss_anon(pid) < SIZE


def test_one_process_killed_by_many_callers_at_once(node: Client) -> None:
    """The first sends the signal, all are told what became of it: back, or gone before they came."""
    with lab.live(16 * lab.MIB) as victim, ThreadPoolExecutor(32) as pool:
        calls = [pool.submit(node.kill_and_release, Process(victim.pid), wait=Wait.EXITED) for _ in range(32)]
        outcomes = {call.result(30).processes[0].outcome for call in calls}
        assert outcomes <= {Outcome.RELEASED, Outcome.EXITED}


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Path, None, None]:
    """What every reap of a gated agent waits for."""
    with seam_agent.gate(tmp_path / "gate") as path:
        yield path


@contextlib.contextmanager
def gated(folder: Path, gate: Path, *flags: str) -> Generator[Agent, None, None]:
    with running_agent(folder, *scrape.FLAGS, *flags, prefix=seam_agent.seam("gate", str(gate))) as agent:
        yield agent


def stuck(agent: Agent) -> float:
    return scrape.metric(agent, "mrelease_reaper_threads", state="stuck")


def await_stuck(agent: Agent, count: int) -> None:
    lab.until(lambda: stuck(agent) == count, f"{count} reaps are stuck", 60)


@contextlib.contextmanager
def stuck_reaps(agent: Agent, node: Client, count: int) -> Generator[None, None, None]:
    """``count`` reaps of one process that stands at its exit, all stuck; at the end they are waited for."""
    with lab.held_at_exit(16 * lab.MIB) as held, ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(node.release, Process(held.pid), timeout=300) for _ in range(count)]
        try:
            await_stuck(agent, count)
            yield
        finally:
            for call in calls:
                assert call.result(60).processes[0].outcome in (Outcome.RELEASED, Outcome.PARTIAL, Outcome.HELD)


def test_32_stuck_reaps_hinder_nobody(run_dir: Path, gate: Path) -> None:
    with gated(run_dir, gate, "--reaper-threads", "8", "--max-stuck-reapers", "32") as agent, agent.client() as node:
        with contextlib.ExitStack() as stack:
            victim = stack.enter_context(lab.live(16 * lab.MIB))
            stack.enter_context(stuck_reaps(agent, node, 32))
            stack.enter_context(_open_at_exit(gate))
            with raw.caller(agent.address) as call:
                for _ in range(100):
                    assert call(raw.HEALTH, b"", timeout=HEALTH_DEADLINE).body == raw.SERVING
            assert node.get_node().identity.name
            assert len(node.list_processes(limit=5)) == 5
            killed = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED, reap_delay=1)
            assert killed.is_released
        await_stuck(agent, 0)
        with lab.held_at_exit(16 * lab.MIB) as held, seam_agent.opened(gate):
            assert node.release(Process(held.pid)).processes[0].outcome is Outcome.RELEASED
        lab.until(lambda: scrape.metric(agent, "mrelease_reaper_threads", state="idle") == 8, "the spare threads have ended")


@contextlib.contextmanager
def _open_at_exit(gate: Path) -> Generator[None, None, None]:
    """Lets the stuck reaps go on: the writer's coming wakes who waits in open(2), even when it leaves at once."""
    try:
        yield
    finally:
        with seam_agent.opened(gate):
            pass


def test_when_every_reaper_is_stuck_nothing_is_signalled(run_dir: Path, gate: Path) -> None:
    flags = ("--reaper-threads", "1", "--max-stuck-reapers", "1")
    with gated(run_dir, gate, *flags) as agent, agent.client() as node, lab.live(SIZE) as victim:
        with stuck_reaps(agent, node, 2), _open_at_exit(gate):
            with raw.caller(agent.address) as call:
                answer = call(raw.KILL, raw.process(victim.pid))
                raw.assert_refused(answer, grpc.StatusCode.RESOURCE_EXHAUSTED, "REAPERS_EXHAUSTED")
            with pytest.raises(errors.ReapersExhausted) as caught:
                node.kill_and_release(Process(victim.pid))
            assert caught.value.nothing_signalled
            assert caught.value.retry_after
            assert not victim.exited(0)
            assert node.get_node().identity.name
        await_stuck(agent, 0)
        with seam_agent.opened(gate):
            assert node.kill_and_release(Process(victim.pid)).is_released


def test_reapers_exhausted_by_the_kernel_itself(run_dir: Path) -> None:
    """Two victims with mmap_lock held, two threads: the next caller is refused; when the locks are free, it is served."""
    flags = ("--reaper-threads", "1", "--max-stuck-reapers", "1")
    with running_agent(run_dir, *scrape.FLAGS, *flags) as agent, agent.client() as node, lab.live(SIZE) as victim:
        with lab.mmap_locked() as first, lab.mmap_locked() as second:
            for number, locked in enumerate((first, second), 1):
                # The call goes on in the kernel after its caller was answered.
                held = node.kill_and_release(Process(locked.pid), timeout=0.5)
                assert held.processes[0].outcome is Outcome.HELD
                await_stuck(agent, number)
            with pytest.raises(errors.ReapersExhausted):
                node.kill_and_release(Process(victim.pid))
            assert not victim.exited(0)
            first.let_go()
            second.let_go()
            await_stuck(agent, 0)
        assert node.kill_and_release(Process(victim.pid)).is_released


def test_more_operations_than_the_limit_are_refused(run_dir: Path) -> None:
    with (
        running_agent(run_dir, "--max-operations", "1") as agent,
        agent.client() as node,
        ThreadPoolExecutor(1) as pool,
        lab.live(SIZE) as first,
        lab.hold_at_exit(first) as hold,
        lab.live(SIZE) as victim,
    ):
        flying = pool.submit(node.kill_and_release, Process(first.pid), wait=Wait.EXITED, timeout=60)
        hold.wait_held()
        with raw.caller(agent.address) as call:
            answer = call(raw.KILL, raw.process(victim.pid))
            raw.assert_refused(answer, grpc.StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT")
            assert answer.details is not None
            assert answer.details.metadata["limit"] == "max_operations"
        assert not victim.exited(0)
        hold.let_go()
        assert flying.result(30).is_released
        assert node.kill_and_release(Process(victim.pid)).is_released


def descriptors(agent: Agent) -> int:
    return len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))


def threads(agent: Agent) -> int:
    return len(lab.threads(agent.pid))


def test_without_a_free_descriptor_nothing_is_signalled(run_dir: Path) -> None:
    """With 0 to 15 descriptors left a kill is served whole or refused; never is the victim dead and the caller told otherwise."""
    served: list[int] = []
    with running_agent(run_dir) as agent, raw.caller(agent.address) as call:
        assert call(raw.LIST, b"").code is grpc.StatusCode.OK
        base = descriptors(agent)
        highest = max(int(fd.name) for fd in Path(f"/proc/{agent.pid}/fd").iterdir())
        _, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)

        for free in range(16):
            # The limit is one of numbers: those below the highest that are not in use can be had too.
            lab.until(lambda: descriptors(agent) == base, "what was opened for the last request is closed")
            resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (max(base, highest + 1) + free, hard))
            with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
                answer = call(raw.KILL, raw.process(victim.pid))
                if answer.code is grpc.StatusCode.OK:
                    served.append(free)
                    hold.wait_held()
                    (result,) = raw.message(answer.body)[1]
                    assert raw.message(result)[1] == [Outcome.RELEASED], (free, answer)
                else:
                    raw.assert_refused(answer, grpc.StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT")
                    assert answer.details is not None
                    assert answer.details.metadata["limit"] == "EMFILE"
                    # Killed, it would be stopped at its exit.
                    lab.until(lambda: lab.state(victim.pid) in ("S", "t"), f"process {victim.pid} sleeps or is held")
                    assert lab.state(victim.pid) == "S", free
            for method in (raw.LIST, raw.GET_NODE):
                answer = call(method, b"")
                if answer.code is not grpc.StatusCode.OK:
                    raw.assert_refused(answer, grpc.StatusCode.RESOURCE_EXHAUSTED, "AGENT_LIMIT")
            assert call(raw.HEALTH, b"").body == raw.SERVING
        assert 0 not in served
        assert 15 in served
        assert agent.process.poll() is None


def test_many_operations_leave_no_descriptor_and_no_thread_behind(run_dir: Path) -> None:
    with running_agent(run_dir) as agent, agent.client() as node:

        def kill(pid: int) -> None:
            node.kill_and_release(Process(pid), wait=Wait.EXITED)

        def use(count: int) -> None:
            with crowd(count, SIZE) as people, ThreadPoolExecutor(16) as pool:
                list(pool.map(kill, people.pids))
            for number in range(count):
                if number % 10 == 0:  # slow where the node has thousands of processes
                    node.list_processes(limit=3)
                with contextlib.suppress(errors.ProcessNotFound):
                    node.release(Process(4194304))
                with contextlib.suppress(errors.InvalidField):
                    node.release(Process(0))
                with contextlib.suppress(errors.Protected):
                    node.kill_and_release(Process(1))
                with contextlib.suppress(errors.IdentityMismatch):
                    node.kill_and_release(Process(1, start_time_ticks=1))

        use(40)  # gRPC's and Python's pools have their threads now
        before = descriptors(agent), threads(agent)
        use(100)
        lab.until(lambda: descriptors(agent) <= before[0], f"the agent has {before[0]} descriptors again")
        assert threads(agent) <= before[1] + 2  # gRPC makes a spare one at times
