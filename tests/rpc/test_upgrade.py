"""One agent takes over from another of another version, on the same socket and the same directories, while an operation is in flight."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mrelease import Boost, Client, Outcome, Process, ReleaseProgress, Wait, errors
from support import lab, other_agent, scrape
from support.agent import Agent, running_agent
from support.audit_log import events, records, sound

SIZE = 16 * lab.MIB
OLD, NEW = "0.1.0", "0.2.0"


@contextlib.contextmanager
def agent_of(version: str, run_dir: Path, *flags: str) -> Generator[Agent]:
    directories = ("--audit-dir", str(run_dir.parent / "audit"), "--log-format", "json", *scrape.FLAGS)
    with running_agent(run_dir, *directories, *flags, prefix=other_agent.version(version)) as agent:
        yield agent


def identity(node: Client, pid: int) -> Process:
    return next(row.process for row in node.list_processes(limit=None) if row.pid == pid)


@pytest.mark.parametrize(
    ("before", "after", "end"),
    [(OLD, NEW, signal.SIGTERM), (OLD, NEW, signal.SIGKILL), (NEW, OLD, signal.SIGKILL)],
    ids=["upgrade", "upgrade after a crash", "downgrade after a crash"],
)
def test_a_held_victim_is_handed_over(before: str, after: str, end: signal.Signals, run_dir: Path) -> None:
    """Its waiters hear that the outcome is not known; the next agent tells it, puts the weights back, and kills nobody else."""
    request_id = "job-99"
    with (
        lab.cpu_cgroup() as low,
        lab.unkillable(SIZE, within=[low]) as victim,
        lab.live(SIZE) as bystander,
        ThreadPoolExecutor(1) as pool,
    ):
        file = "cpu.weight" if low.version == 2 else "cpu.shares"
        weight = low.read(file)
        with agent_of(before, run_dir, "--drain-timeout", "50ms") as first, first.client() as node:
            target = identity(node, victim.pid)
            killing = pool.submit(
                node.kill_and_release, target, request_id=request_id, wait=Wait.EXITED, boost=Boost.LIFT, timeout=300
            )  # fmt: skip
            watching = node.watch_release(request_id, interval=0.01)
            assert isinstance(next(watching), ReleaseProgress)
            lab.until(lambda: low.read(file) != weight and lab.state(victim.pid) == "D", "the victim is killed, held and helped")
            first.process.send_signal(end)
            with pytest.raises(errors.ConnectionLost) as lost:
                killing.result()
            assert not lost.value.nothing_signalled
            with pytest.raises(errors.ConnectionLost, match="make it again"):
                list(watching)
            assert first.process.wait(60) == (0 if end is signal.SIGTERM else -signal.SIGKILL)
        with agent_of(after, run_dir) as second, second.client() as node:
            assert low.read(file) == weight
            assert node.get_node().agent_version == after
            with pytest.raises(errors.OperationNotFound, match="Release with the same target"):
                list(node.watch_release(request_id))
            # As the error says; and who repeats the same request gets a verdict, too.
            assert node.release(target).is_released
            again = node.kill_and_release(target, request_id=request_id)
            assert again.is_released
            assert not again.replayed
            assert [process.pid for process in again.processes] == [victim.pid]
            victim.fs.let_go()
            assert victim.exited()
            assert node.release(target).processes[0].outcome is Outcome.EXITED
            assert not bystander.exited(0)
            assert second.terminate() == 0
    log = run_dir.parent / "audit"
    sound(log)
    assert [record["agent"] for record in events(log, "start")] == [before, after]
    first_intent, *others = [record for record in events(log, "intent") if record.get("request_id") == request_id]
    assert [record["intent"] for record in events(log, "interrupted")] == [first_intent["seq"]]
    assert {process["inode"] for record in (first_intent, *others) for process in record["processes"]} == {
        first_intent["processes"][0]["inode"]
    }
    assert {record["seq"] for record in events(log, "intent")} == {
        record["intent"] for record in records(log) if record["event"] in ("result", "interrupted")
    }


@dataclass
class Reader:
    """Asks for the node again and again, as a dashboard does: which versions answered, and what else it heard."""

    address: str
    versions: list[str] = field(default_factory=list[str])
    heard: list[errors.AgentError] = field(default_factory=list[errors.AgentError])
    _end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with Client(self.address) as node:
            while not self._end.is_set():
                self._ask(node)

    def _ask(self, node: Client) -> None:
        try:
            self.versions.append(node.get_node().agent_version)
        except errors.AgentError as error:
            self.heard.append(error)

    def stop(self) -> None:
        self._end.set()


def test_who_reads_meanwhile_is_answered_by_the_old_one_or_the_new_and_else_told_to_try_again(run_dir: Path) -> None:
    with (
        ThreadPoolExecutor(2) as pool,
        lab.live(SIZE) as victim,
        lab.hold_at_exit(victim) as hold,
        lab.live(SIZE) as other,
        agent_of(OLD, run_dir) as first,
        first.client() as node,
    ):
        reader = Reader(first.address)
        reading = pool.submit(reader.run)
        try:
            killing = pool.submit(node.kill_and_release, Process(victim.pid), wait=Wait.EXITED, timeout=300)
            hold.wait_held()
            lab.until(lambda: OLD in reader.versions, "the old one answers")
            first.process.send_signal(signal.SIGTERM)
            lab.until(lambda: scrape.get(first, "/readyz")[0] == 503, "it drains")
            # What runs is waited for, and what would begin is refused until there is a new one.
            with pytest.raises(errors.ShuttingDown) as refused:
                node.kill_and_release(Process(other.pid))
            assert refused.value.nothing_signalled
            drained = len(reader.versions)
            lab.until(lambda: len(reader.versions) > drained, "it answers reads while it drains")
            hold.let_go()
            assert killing.result().processes[0].outcome in (Outcome.RELEASED, Outcome.EXITED)
            assert first.process.wait(60) == 0
            with agent_of(NEW, run_dir):
                assert node.kill_and_release(Process(other.pid)).is_released
                lab.until(lambda: NEW in reader.versions, "the new one answers")
        finally:
            reader.stop()
            reading.result()
    assert reader.versions == sorted(reader.versions), "first the old one, then the new"
    # No agent, or one that went away with the call in its hands: each may be made again, and says so.
    assert [error for error in reader.heard if not (isinstance(error, (errors.Unavailable, errors.OutcomeUnknown)) and error.remedy)] == []
    assert all(error.nothing_signalled for error in reader.heard)
