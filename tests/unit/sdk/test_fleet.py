"""What a fleet repeats and what never, what it takes of its caller, and how it ends. The agents are scripted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import grpc
import pytest

from mrelease import AsyncFleet, Fleet, FleetRequest, Member, NodeRef, Process, errors
from mrelease import _fleet_repeating as repeating
from mrelease._status import ErrorDetails
from mrelease.resolvers import Agent, Placement
from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2, result_pb2, target_pb2
from support.sdk_fake_agent import Fail, FakeAgent, Stream, agent_that_hangs_up, fake_agent

RELEASED = result_pb2.ReleaseResult(verdict=outcome_pb2.VERDICT_RELEASED, released_bytes=7)
KILLED = release_service_pb2.KillAndReleaseResponse(result=RELEASED)
NODE = node_service_pb2.GetNodeResponse(node=node_service_pb2.Node(identity=result_pb2.NodeIdentity(name="n", boot_id="b")))
FOUND = release_service_pb2.WatchReleaseResponse(result=RELEASED)
LOST = Fail(grpc.StatusCode.UNAVAILABLE, "Socket closed")


def refused(reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, **metadata: str) -> Fail:
    return Fail(code, reason, ErrorDetails(reason, metadata))


@pytest.fixture
def agent(tmp_path: Path) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as made:
        made.script("GetNode", NODE)
        made.script("KillAndRelease", KILLED)
        made.script("Release", release_service_pb2.ReleaseResponse(result=RELEASED))
        yield made


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeating, "_PAUSES", (0.01, 0.01, 0.01))


async def kill(agent: FakeAgent, **options: object) -> object:
    async with AsyncFleet([Member("n", agent.address)]) as fleet:
        answers = [answer async for answer in fleet.kill_and_release([FleetRequest("n", Process(1), str(options.get("request_id", "")))])]
    assert len(answers) == 1
    return answers[0].result


async def test_what_certainly_was_not_begun_is_asked_for_again(agent: FakeAgent) -> None:
    agent.script("KillAndRelease", refused("SHUTTING_DOWN"), refused("SHUTTING_DOWN"), KILLED)
    assert not isinstance(await kill(agent), Exception)
    assert agent.count("KillAndRelease") == 3
    assert len({seen.request.request_id for seen in agent.seen}) == 1


async def test_an_agent_that_stays_away_ends_it(agent: FakeAgent) -> None:
    agent.script("KillAndRelease", refused("SHUTTING_DOWN"))
    assert isinstance(await kill(agent), errors.ShuttingDown)
    assert agent.count("KillAndRelease") == 4


@pytest.mark.parametrize("reason", ["KILL_LIMIT", "REAPERS_EXHAUSTED", "AUDIT_UNAVAILABLE", "PROTECTED"])
async def test_a_refusal_is_an_answer(agent: FakeAgent, reason: str) -> None:
    agent.script("KillAndRelease", refused(reason, grpc.StatusCode.FAILED_PRECONDITION))
    assert isinstance(await kill(agent), errors.AgentError)
    assert agent.count("KillAndRelease") == 1


async def test_a_lost_answer_is_looked_for_and_the_kill_is_not_repeated(agent: FakeAgent) -> None:
    agent.script("KillAndRelease", LOST)
    agent.script_stream("WatchRelease", Stream([LOST]), Stream([FOUND]))
    result = await kill(agent)
    assert not isinstance(result, Exception)
    assert agent.count("KillAndRelease") == 1
    ids = {seen.request.request_id for seen in agent.seen}
    assert len(ids) == 1
    assert ids != {""}


async def test_an_agent_that_has_forgotten_leaves_it_open(agent: FakeAgent) -> None:
    agent.script("KillAndRelease", LOST)
    agent.script_stream("WatchRelease", Stream([refused("OPERATION_NOT_FOUND", grpc.StatusCode.NOT_FOUND)]))
    error = await kill(agent)
    assert isinstance(error, errors.ConnectionLost)
    assert not error.nothing_signalled
    assert agent.count("KillAndRelease") == 1


async def test_an_agent_that_cannot_be_asked_leaves_it_open(tmp_path: Path) -> None:
    with agent_that_hangs_up(tmp_path) as address:
        async with AsyncFleet([Member("n", address)]) as fleet:
            found = [answer.error async for answer in fleet.kill_and_release([("n", Process(1))])]
    assert isinstance(found[0], errors.ConnectionLost)


async def test_an_older_agent_has_no_ids(agent: FakeAgent) -> None:
    field = str(release_service_pb2.KillAndReleaseRequest.REQUEST_ID_FIELD_NUMBER)
    unknown = refused("INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT, field=field)
    agent.script("KillAndRelease", unknown, KILLED)
    assert not isinstance(await kill(agent), Exception)
    assert [bool(seen.request.request_id) for seen in agent.seen] == [True, False]
    agent.script("KillAndRelease", unknown)
    assert isinstance(await kill(agent, request_id="mine"), errors.InvalidField), "whoever chose an id relies on it"


async def test_a_read_is_made_again_while_its_agent_is_away(agent: FakeAgent) -> None:
    agent.script("GetNode", LOST, LOST, NODE)
    async with AsyncFleet([agent.address]) as fleet:
        assert [answer.error async for answer in fleet.get_node()] == [None]
    assert agent.count("GetNode") == 3


async def test_a_dry_run_has_no_id(agent: FakeAgent) -> None:
    async with AsyncFleet([Member("n", agent.address)]) as fleet:
        async for answer in fleet.kill_and_release([("n", Process(1))], validate_only=True):
            assert answer.request_id == ""
    assert agent.seen[0].request.request_id == ""


async def test_what_a_resolver_knows_by_its_user_alone_is_identified_first(agent: FakeAgent) -> None:
    mine = node_service_pb2.ProcessInfo(process=target_pb2.ProcessTarget(pid=5, pidfd_inode=55, start_time_ticks=3), uid=1000)
    agent.script("ListProcesses", node_service_pb2.ListProcessesResponse(processes=[mine]))
    there, gone = (Placement("n", Process(pid), NodeRef(), f"pid {pid}", agent=Agent(agent.address), uid=1000) for pid in (5, 6))
    async with AsyncFleet() as fleet:
        found = [answer async for answer in fleet.kill_and_release([there, gone])]
    killed = [seen.request.target.process for seen in agent.seen if seen.method == "KillAndRelease"]
    assert [(process.pid, process.pidfd_inode) for process in killed] == [(5, 55)]
    assert sum(isinstance(answer.error, errors.ReferenceNotFound) for answer in found) == 1


async def test_requests_are_taken_as_answers_are(agent: FakeAgent) -> None:
    taken = 0

    def very_many() -> Iterator[tuple[str, Process]]:
        nonlocal taken
        while True:
            taken += 1
            yield "n", Process(taken)

    async with AsyncFleet([Member("n", agent.address)], concurrency=3) as fleet:
        answers = fleet.kill_and_release(very_many())
        for got in range(20):
            assert (await anext(answers)).error is None
            assert taken <= got + 3, "nobody has taken the others"
        await answers.aclose()


async def test_what_is_wrong_with_all_is_raised_when_all_that_was_begun_is_answered(agent: FakeAgent) -> None:
    def broken() -> Iterator[tuple[str, Process]]:
        yield "n", Process(1)
        yield "n", Process(2)
        raise OSError("the list ends here")

    async with AsyncFleet([Member("n", agent.address)]) as fleet:
        answers = fleet.kill_and_release(broken())
        assert [(await anext(answers)).error for _ in range(2)] == [None, None]
        with pytest.raises(OSError, match="ends here"):
            await anext(answers)
        with pytest.raises(TypeError, match="a target is"):
            [answer async for answer in fleet.kill_and_release([("n", 4711)])]  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def test_iterators_within_one_another_share_the_places(agent: FakeAgent) -> None:
    async with AsyncFleet([Member(name, agent.address) for name in "abc"], concurrency=1) as fleet:
        async for answer in fleet.get_node():
            async for killed in fleet.kill_and_release([(answer.member, Process(1))]):
                assert killed.member == answer.member


async def test_a_closed_fleet_says_so(agent: FakeAgent) -> None:
    fleet = AsyncFleet([agent.address])
    assert [answer.error async for answer in fleet.get_node()] == [None]
    await fleet.close()
    with pytest.raises(RuntimeError, match="this fleet is closed"):
        [answer async for answer in fleet.get_node()]


def test_it_belongs_to_one_event_loop(agent: FakeAgent) -> None:
    fleet = AsyncFleet([agent.address])

    async def ask() -> None:
        assert [answer.error async for answer in fleet.get_node()] == [None]

    async def end() -> None:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await ask()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask())
        asyncio.run(end())
        loop.run_until_complete(fleet.close())
    finally:
        loop.close()


def test_a_blocking_fleet_is_shared_by_threads_and_closed_once(agent: FakeAgent) -> None:
    fleet = Fleet([Member("n", agent.address)])
    found: list[int] = []

    def work() -> None:
        found.append(sum(answer.error is None for answer in fleet.kill_and_release(("n", Process(1)) for _ in range(10))))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [10] * 4
    begun = fleet.get_node()
    next(begun)
    fleet.close()
    fleet.close()
    with pytest.raises(RuntimeError, match="this fleet is closed"):
        next(begun)
    with pytest.raises(RuntimeError, match="this fleet is closed"):
        list(fleet.get_node())
    assert not [thread for thread in threading.enumerate() if thread.name == "mrelease-fleet"]


def test_members_are_told_apart() -> None:
    with pytest.raises(ValueError, match="two members are called n"):
        AsyncFleet([Member("n", "127.0.0.1:1"), Member("n", "127.0.0.1:2")])
    assert len(AsyncFleet(["127.0.0.1:1", "127.0.0.1:1"]).members) == 1
    with pytest.raises(ValueError, match="concurrency must be at least 1"):
        AsyncFleet(concurrency=0)
    with pytest.raises(TypeError, match="a member is"):
        AsyncFleet([7])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def test_what_is_wrong_with_one_member_is_its_answer(agent: FakeAgent) -> None:
    async with AsyncFleet([Member("n", agent.address), Member("typo", "nowhere")]) as fleet:
        asked = [("n", Process(1)), ("typo", Process(2)), ("who", Process(3))]
        found = {answer.member.name: answer.error async for answer in fleet.kill_and_release(asked)}
    assert found["n"] is None
    assert isinstance(found["typo"], errors.InvalidAddress)
    assert isinstance(found["who"], errors.NoAgent)
