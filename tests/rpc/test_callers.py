"""Callers come and go: once SIGKILL is out, the operation runs to its end, and what the agent found out is in its log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mrelease import Client, Outcome, Proof, Wait
from support import lab, raw, scrape, seam_agent
from support.agent import Agent, clean_environment, running_agent

SIZE = 16 * lab.MIB
#: The longest reap_delay: between the signal and reaping there is time for the caller to go away.
DELAY = raw.field(5, raw.field(1, 1))
EXITED = raw.field(3, 2)


@pytest.fixture
def own(run_dir: Path) -> Generator[Agent, None, None]:
    """An agent of the test's own, with metrics and a log to read."""
    with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json") as agent:
        yield agent


def ran_to_its_end(agent: Agent, victim: lab.Victim) -> None:
    """The outcome is in log and metrics, and the memory is back although the victim has not exited."""
    operation = scrape.wait_event(agent, "operation", pid=victim.pid)
    assert operation["outcome"] == "RELEASED"
    assert operation["released_bytes"] >= victim.size_bytes * 0.99
    assert lab.rss_anon(victim.pid) < victim.size_bytes // 100
    assert scrape.metric(agent, "mrelease_outcomes_total", method="KillAndRelease", outcome="RELEASED") == 1
    scrape.wait_metric(agent, 0, "mrelease_operations_in_flight")
    assert not victim.exited(0)


def test_a_caller_that_cancels(own: Agent) -> None:
    with raw.caller(own.address) as call, lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        flying = call.start(raw.KILL, raw.process(victim.pid) + DELAY)
        hold.wait_held()
        flying.cancel()
        assert flying.code() is grpc.StatusCode.CANCELLED
        ran_to_its_end(own, victim)
        assert call(raw.HEALTH, b"").body == raw.SERVING


def test_a_caller_whose_deadline_passes(own: Agent) -> None:
    with raw.caller(own.address) as call, lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        flying = call.start(raw.KILL, raw.process(victim.pid) + DELAY, timeout=0.3)
        hold.wait_held()
        assert call.finish(flying).code is grpc.StatusCode.DEADLINE_EXCEEDED
        ran_to_its_end(own, victim)


CALLER = "import sys; from mrelease import *; Client(sys.argv[1]).kill_and_release(Process(int(sys.argv[2])), reap_delay=1, timeout=60)"


def test_a_caller_that_is_killed(own: Agent) -> None:
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        with subprocess.Popen([sys.executable, "-c", CALLER, own.address, str(victim.pid)], env=clean_environment()) as caller:
            try:
                hold.wait_held()
            finally:
                caller.kill()
        ran_to_its_end(own, victim)


def test_a_caller_that_closes_its_connection(own: Agent) -> None:
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        with raw.caller(own.address) as call:
            flying = call.start(raw.KILL, raw.process(victim.pid) + DELAY)
            hold.wait_held()
        assert flying.code() is grpc.StatusCode.CANCELLED
        ran_to_its_end(own, victim)


def test_a_deadline_shortens_the_wait_so_that_the_answer_arrives(node: Client, agent: Agent) -> None:
    """The request would wait a minute for an exit that does not come; the caller hears by its own deadline what is known then."""
    with raw.caller(agent.address) as call, lab.live(SIZE) as victim, lab.hold_at_exit(victim):
        request = raw.process(victim.pid) + EXITED + raw.field(4, raw.field(1, 60))
        answer = call(raw.KILL, request, timeout=3)
        assert answer.code is grpc.StatusCode.OK
        (result,) = raw.message(answer.body)[1]
        (process,) = raw.message(result)[3]
        fields = raw.message(process)
        assert fields[3] == [Outcome.RELEASED]
        assert fields[10] == [Proof.RELEASE]
        assert 14 not in fields  # exit_duration
    assert node.get_node().identity.name


def test_a_caller_that_leaves_before_the_signal_is_out_or_after_makes_no_difference(own: Agent) -> None:
    """Cancelled at any moment: the victim is either untouched, or dead and released."""
    with raw.caller(own.address) as call:
        for _ in range(20):
            with lab.live(lab.MIB) as victim:
                flying = call.start(raw.KILL, raw.process(victim.pid) + EXITED)
                flying.cancel()
                # On the same connection, so the agent has seen both before this one.
                assert call(raw.HEALTH, b"").body == raw.SERVING
                lab.until(lambda: scrape.metric(own, "mrelease_operations_in_flight") == 0, "no operation is in flight")
                if victim.exited(0):
                    assert scrape.wait_event(own, "operation", pid=victim.pid)["outcome"] in ("EXITED", "RELEASED")


SECRET = "/etc/shadow line 7: hunter2"


@pytest.fixture
def defective(run_dir: Path) -> Generator[Agent, None, None]:
    """An agent with a defect: an exception where nobody expects one."""
    with running_agent(run_dir, *scrape.FLAGS, "--log-format", "json", prefix=seam_agent.seam("raise", SECRET)) as agent:
        yield agent


def test_a_defect_is_internal_and_its_text_is_in_the_log_only(defective: Agent) -> None:
    with raw.caller(defective.address) as call, lab.live(SIZE) as victim, lab.hold_at_exit(victim):
        answer = call(raw.KILL, raw.process(victim.pid))
        raw.assert_refused(answer, grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "hunter2" not in answer.message
        assert b"hunter2" not in answer.status
        assert answer.details is not None
        incident = answer.details.metadata["incident"]
        logged = scrape.wait_event(defective, "internal error", incident=incident)
        assert SECRET in logged["exception"]
        scrape.wait_metric(defective, 1, "mrelease_requests_total", method="KillAndRelease", code="INTERNAL")
        assert scrape.metric(defective, "mrelease_operations_in_flight") == 0
        assert call(raw.HEALTH, b"").body == raw.SERVING


def test_a_defect_after_the_caller_has_left_is_in_the_log(defective: Agent) -> None:
    with raw.caller(defective.address) as call, lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        flying = call.start(raw.KILL, raw.process(victim.pid) + DELAY)
        hold.wait_held()
        flying.cancel()
        assert SECRET in scrape.wait_event(defective, "internal error")["exception"]


def test_callers_that_come_and_go_leave_nothing_behind(own: Agent) -> None:
    """Connections, tasks and descriptors of 200 callers that broke off are gone."""

    def descriptors() -> int:
        return len(list(Path(f"/proc/{own.pid}/fd").iterdir()))

    def leave(_number: int) -> None:
        with raw.caller(own.address) as call:
            call.start(raw.LIST, b"")

    leave(0)
    with raw.caller(own.address) as call:
        call(raw.LIST, b"")
        before = descriptors()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(leave, range(200)))
        lab.until(lambda: descriptors() <= before, f"the agent has {before} descriptors again")
        assert call(raw.HEALTH, b"").body == raw.SERVING


def test_wait_is_understood() -> None:
    assert raw.message(EXITED) == {3: [Wait.EXITED]}
