"""One look at a case, at a real agent: what is dying is released, what lives is left alone, and the same request is made once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_asyncio

pytest.importorskip("lightkube", reason="the controller needs Python 3.11: pip install 'mrelease[controller]'")

from mrelease import AsyncClient, NodeRef, Pod
from mrelease_controller.attempt import Finding, Order, Report, look, request_id, why
from mrelease_controller.cases import Case, Kind
from mrelease_controller.config import Settings
from mrelease_controller.words import LONGEST, Note, note
from support import lab
from support.agent import Agent
from support.kubepods import FakePod, Kubepods
from support.lab import MIB

SIZE = 32 * MIB
SETTINGS = Settings()
pytestmark = pytest.mark.usefixtures("process_mrelease")


@pytest.fixture
def pod(tmp_path: Path) -> Generator[FakePod]:
    with ExitStack() as made:
        yield Kubepods(made.enter_context(lab.memory_cgroup()), tmp_path / "logs", made).pod("ml")


@pytest_asyncio.fixture
async def client(agent: Agent) -> AsyncGenerator[AsyncClient]:
    async with AsyncClient(agent.address) as made:
        yield made


@pytest_asyncio.fixture
async def node(client: AsyncClient) -> str:
    return (await client.get_node()).identity.name


async def never() -> bool:
    return False


async def now() -> bool:
    return True


def order(pod: FakePod, node: str, *, attempt: int = 0, dry_run: bool = False, kill: bool = False, wait: float = 0.0) -> Order:
    case = Case(Kind.TERMINATING, "ml", "worker", pod.uid, node, 0.0)
    return Order(case, attempt, dry_run, now if kill else never, lambda: wait)


def told(report: Report, made: Order) -> Note:
    found = note(made.case, report)
    assert found is not None
    assert len(found.text.encode()) <= LONGEST
    return found


async def test_memory_of_a_pod_in_d_state_is_released_and_its_event_says_so(client: AsyncClient, node: str, pod: FakePod) -> None:
    made = order(pod, node)
    with lab.d_state(SIZE, within=[pod.group]) as victim:
        report = await look(client, made, SETTINGS)
        assert report.finding is Finding.RELEASED
        assert report.result is not None
        assert report.result.released_bytes >= SIZE * 0.98
        said = told(report, made)
        assert (said.reason, said.is_warning) == ("MemoryReleased", False)
        assert said.text.startswith("released 3")
        assert f"process {victim.pid} (" in said.text
        assert "in D state" in said.text
        # Whoever comes after a restart makes the same request: it is answered with what the first one did.
        assert report.result.request_id == request_id(made.case, "release", 0)
        again = await client.release(
            Pod(pod.uid), node=NodeRef(node), timeout=SETTINGS.timeout, reason=why(made.case), request_id=report.result.request_id
        )
        assert (again.replayed, again.released_bytes) == (True, report.result.released_bytes)
        assert (await look(client, order(pod, node, attempt=1), SETTINGS)).finding is Finding.NOTHING


async def test_what_lives_is_never_touched(client: AsyncClient, node: str, pod: FakePod) -> None:
    made = order(pod, node)
    with lab.live(SIZE, within=[pod.group]) as victim:
        report = await look(client, made, SETTINGS)
        assert report.finding is Finding.ALIVE
        assert not report.asked
        assert not victim.exited(0)
        assert told(report, made).reason == "NotKilled"


async def test_what_lives_is_killed_where_that_is_allowed_at_the_last_moment(client: AsyncClient, node: str, pod: FakePod) -> None:
    made = order(pod, node, kill=True)
    with lab.live(SIZE, within=[pod.group]) as victim:
        report = await look(client, made, SETTINGS)
        assert (report.finding, report.killed) == (Finding.RELEASED, True)
        assert victim.exited()
        assert told(report, made).reason == "Killed"


async def test_a_dry_run_says_what_would_come_back(client: AsyncClient, node: str, pod: FakePod) -> None:
    made = order(pod, node, dry_run=True, kill=True)
    with lab.d_state(SIZE, within=[pod.group]):
        report = await look(client, made, SETTINGS)
        assert (report.finding, report.asked) == (Finding.WOULD, False)
        assert told(report, made).text.startswith("dry run: would release 3")
        assert (await look(client, order(pod, node), SETTINGS)).finding is Finding.RELEASED, "nothing was released before"


async def test_memory_that_is_held_is_told_with_its_cause_and_remedy(client: AsyncClient, node: str, pod: FakePod) -> None:
    made = order(pod, node)
    with lab.mmap_locked(SIZE, within=[pod.group]) as victim:
        victim.kill()
        report = await look(client, made, Settings(timeout=1))
        assert (report.finding, report.asked) == (Finding.HELD, True)
        assert report.result is not None
        (process,) = report.result.processes
        said = told(report, made)
        assert (said.reason, said.is_warning) == ("MemoryHeld", True)
        assert said.text.startswith("0.00 of 3")
        assert process.cause in said.text
        assert process.remedy in said.text


async def test_of_a_container_that_was_killed_what_is_left_is_released(client: AsyncClient, node: str, pod: FakePod) -> None:
    case = Case(Kind.CONTAINER, "ml", "worker", pod.uid, node, 0.0, pod.container)
    made = Order(case, 0, False, never, lambda: 0.0)
    with lab.d_state(SIZE, within=[pod.group]):
        report = await look(client, made, SETTINGS)
        assert report.finding is Finding.RELEASED
        assert f"of container {pod.container[:12]}" in told(report, made).text


async def test_nothing_is_asked_for_where_the_budget_is_used_up(client: AsyncClient, node: str, pod: FakePod) -> None:
    with lab.d_state(SIZE, within=[pod.group]):
        report = await look(client, order(pod, node, wait=7), SETTINGS)
        assert (report.finding, report.wait, report.asked) == (Finding.LIMITED, 7, False)


async def test_a_pod_without_processes_and_one_that_is_not_there_are_nothing(client: AsyncClient, node: str, pod: FakePod) -> None:
    assert (await look(client, order(pod, node), SETTINGS)).finding is Finding.NOTHING
    gone = FakePod("00000000-0000-0000-0000-000000000000", pod.container, pod.group)
    assert (await look(client, order(gone, node), SETTINGS)).finding is Finding.NOTHING


async def test_the_agent_of_another_node_does_nothing(client: AsyncClient, pod: FakePod) -> None:
    made = order(pod, "another-node")
    with lab.d_state(SIZE, within=[pod.group]):
        report = await look(client, made, SETTINGS)
        assert report.finding is Finding.REFUSED
        assert told(report, made).reason == "ReleaseRefused"


async def test_an_agent_that_does_not_answer_is_told(pod: FakePod, tmp_path: Path) -> None:
    made = order(pod, "n")
    async with AsyncClient(f"unix://{tmp_path}/nobody", timeout=1) as nobody:
        report = await look(nobody, made, SETTINGS)
    assert report.finding is Finding.UNREACHABLE
    assert told(report, made).reason == "AgentUnreachable"
