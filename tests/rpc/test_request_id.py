"""request_id: the same request joins or repeats its operation, another one is refused, and whoever lost his answer gets it again."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrelease import Client, Outcome, Process, ReleaseProgress, ReleaseResult, Wait, errors
from support import lab, raw, scrape, seam_agent
from support.agent import Agent, running_agent

SIZE = 16 * lab.MIB


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Path, None, None]:
    with seam_agent.gate(tmp_path / "gate") as path:
        yield path


@pytest.fixture
def gated(run_dir: Path, gate: Path) -> Generator[Agent, None, None]:
    """An agent whose reaps wait until the gate is opened."""
    with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json", prefix=seam_agent.seam("gate", str(gate))) as agent:
        yield agent


def new_id() -> str:
    return str(uuid.uuid4())


def test_the_same_request_joins_the_operation_while_it_runs(gated: Agent, gate: Path) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold, gated.client() as node, ThreadPoolExecutor(2) as pool:

        def kill() -> ReleaseResult:
            return node.kill_and_release(Process(victim.pid), request_id=request_id, timeout=60)

        first = pool.submit(kill)
        hold.wait_held()
        second = pool.submit(kill)
        scrape.wait_metric(gated, 1, "mrelease_operations_in_flight")
        with seam_agent.opened(gate):
            results = [first.result(), second.result()]
        assert [result.replayed for result in results] == [False, True]
        assert results[0].processes == results[1].processes
        assert results[0].processes[0].outcome is Outcome.RELEASED
        assert results[0].request_id == request_id
        assert len(scrape.events(gated, "operation")) <= 1


def test_it_is_repeated_after_the_end_although_the_process_is_gone(node: Client) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim:
        first = node.kill_and_release(Process(victim.pid), request_id=request_id, wait=Wait.EXITED)
        assert first.is_released
        assert not first.replayed
    with pytest.raises(errors.ProcessNotFound):
        node.kill_and_release(Process(victim.pid))
    again = node.kill_and_release(Process(victim.pid), request_id=request_id, wait=Wait.EXITED)
    assert again.replayed
    assert again.processes == first.processes


def test_who_lost_the_answer_asks_again_and_gets_it(run_dir: Path) -> None:
    request_id = new_id()
    target = raw.field(8, request_id)
    with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json") as agent, lab.live(SIZE) as victim:
        with raw.caller(agent.address) as call, lab.hold_at_exit(victim) as hold:
            flying = call.start(raw.KILL, raw.process(victim.pid) + target)
            hold.wait_held()
            flying.cancel()
            scrape.wait_event(agent, "operation", pid=victim.pid)
        with raw.caller(agent.address) as call:
            assert call(raw.KILL, raw.process(victim.pid) + target).code.name == "OK"
        with agent.client() as node:
            *_, last = node.watch_release(request_id)
    assert isinstance(last, ReleaseResult)
    assert last.released_bytes >= SIZE * 0.98


def test_another_request_with_the_same_id_is_refused(node: Client) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim, lab.live(SIZE) as other:
        node.kill_and_release(Process(victim.pid), request_id=request_id)
        refusals: list[Callable[[], object]] = [
            lambda: node.kill_and_release(Process(other.pid), request_id=request_id),
            lambda: node.kill_and_release(Process(victim.pid), request_id=request_id, reason="another"),
            lambda: node.release(Process(victim.pid), request_id=request_id),
        ]
        for refused in refusals:
            with pytest.raises(errors.RequestIdReused) as caught:
                refused()
            assert caught.value.nothing_signalled
            assert caught.value.metadata["request_id"] == request_id
        assert not other.exited(0)


def test_a_request_that_was_refused_is_not_remembered(node: Client) -> None:
    request_id = new_id()
    with lab.reaped() as gone, pytest.raises(errors.ProcessNotFound):
        node.kill_and_release(Process(gone.pid), request_id=request_id)
    with lab.live(SIZE) as victim:
        assert node.kill_and_release(Process(victim.pid), request_id=request_id).is_released


def test_a_dry_run_takes_no_id(node: Client) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim:
        node.kill_and_release(Process(victim.pid), request_id=request_id, validate_only=True)
        killed = node.kill_and_release(Process(victim.pid), request_id=request_id)
        assert killed.is_released
        assert not killed.replayed


@pytest.mark.parametrize("flags", [("--result-ttl", "0s"), ("--max-results", "0")])
def test_results_are_kept_as_long_as_configured(run_dir: Path, flags: tuple[str, str]) -> None:
    with running_agent(run_dir, *flags) as agent, agent.client() as node, lab.live(SIZE) as victim:
        node.kill_and_release(Process(victim.pid), request_id="once", wait=Wait.EXITED)
        with pytest.raises(errors.OperationNotFound):
            list(node.watch_release("once"))


def test_of_too_many_results_the_oldest_goes(run_dir: Path) -> None:
    with running_agent(run_dir, "--max-results", "2") as agent, agent.client() as node, contextlib.ExitStack() as stack:
        for name in ("a", "b", "c"):
            node.kill_and_release(Process(stack.enter_context(lab.live(lab.MIB)).pid), request_id=name)
        with pytest.raises(errors.OperationNotFound):
            list(node.watch_release("a"))
        for kept in ("b", "c"):
            (result,) = node.watch_release(kept)
            assert isinstance(result, ReleaseResult)
            assert result.request_id == kept


@pytest.mark.parametrize("request_id", ["a b", "x" * 129, "\u00e4", "a\n", "/"])
def test_what_is_no_id_is_refused(node: Client, request_id: str) -> None:
    with lab.live(SIZE) as victim:
        with pytest.raises(errors.InvalidField) as caught:
            node.kill_and_release(Process(victim.pid), request_id=request_id)
        assert caught.value.metadata["field"] == "request_id"
        with pytest.raises(errors.InvalidField):
            list(node.watch_release(request_id))
        assert not victim.exited(0)


def test_watching_shows_what_is_held_and_ends_with_the_result(gated: Agent, gate: Path) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim), gated.client() as node, ThreadPoolExecutor(1) as pool:
        watching = node.watch_release(request_id, interval=0.01)
        # The watcher may come first: an operation is waited for.
        killing = pool.submit(lambda: node.kill_and_release(Process(victim.pid), request_id=request_id, timeout=60))
        seen = [next(watching) for _ in range(5)]
        with seam_agent.opened(gate):
            seen += list(watching)
            result = killing.result()
    *progress, last = seen
    assert all(isinstance(each, ReleaseProgress) for each in progress)
    held = [each for each in progress if isinstance(each, ReleaseProgress) and each.before_bytes]
    assert held
    assert held[-1].before_bytes >= SIZE * 0.98
    assert held[0].held_bytes >= SIZE * 0.98
    assert held[0].processes == 1
    assert isinstance(last, ReleaseResult)
    assert last.processes == result.processes


def test_a_watcher_gets_the_error_of_the_operation(gated: Agent, gate: Path) -> None:
    request_id = new_id()
    with lab.live(SIZE) as victim, gated.client() as node, ThreadPoolExecutor(1) as pool, raw.caller(gated.address) as call:
        # A release of what is alive: the kernel says so, which the gate holds back.
        releasing = pool.submit(lambda: node.release(Process(victim.pid), request_id=request_id, timeout=60))
        watching = node.watch_release(request_id, interval=0.01)
        assert isinstance(next(watching), ReleaseProgress)
        with seam_agent.opened(gate):
            with pytest.raises(errors.NotDying):
                list(watching)
            with pytest.raises(errors.NotDying):
                releasing.result()
        assert call(raw.HEALTH, b"").body == raw.SERVING
        assert not victim.exited(0)


def test_nobody_is_found_under_an_unknown_id(node: Client) -> None:
    with pytest.raises(errors.OperationNotFound) as caught:
        list(node.watch_release("nobody"))
    assert caught.value.metadata["request_id"] == "nobody"
