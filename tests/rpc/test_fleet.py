"""A fleet of fifty agents, some of which are odd: each is answered for, and what is wrong with one is of no concern to the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from mrelease import AsyncFleet, Fleet, FleetAnswer, FleetRequest, Member, Node, NodeRef, Process, ReleaseResult, Verdict, errors
from mrelease.resolvers import Agent, Placement
from support.fleet_agents import BOOT, OTHER_BOOT, Crowd, fleet_agents, name_of, shown
from support.pki import Pki
from support.seam_agent import gate, opened

COUNT = 50
SILENT, LATE, REBOOTED = name_of(7), name_of(11), name_of(13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def late(folder: Path) -> Generator[Path]:
    """The late agent answers while it is opened."""
    with gate(folder / "late") as fifo:
        yield fifo


@pytest.fixture(scope="module")
def crowd(late: Path) -> Generator[Crowd]:
    with fleet_agents(COUNT, odd={7: "silent", 11: f"gate {late}", 13: "boot"}) as made:
        yield made


@pytest.fixture
def members(crowd: Crowd) -> list[Member]:
    return [Member(name, address, node=NodeRef(name, BOOT)) for name, address in crowd.agents.items()]


@pytest.fixture
def well(members: list[Member]) -> list[Member]:
    """Those that are not odd."""
    return [member for member in members if member.name not in (SILENT, LATE, REBOOTED)]


async def test_one_never_answers_one_is_late_one_has_rebooted_and_the_rest_are_as_ever(members: list[Member], late: Path) -> None:
    names = {member.name for member in members}
    found: dict[str, FleetAnswer[Node]] = {}
    async with AsyncFleet(members, concurrency=8) as fleet:
        answers = fleet.get_node(deadline=60)
        # Two of eight places are taken by those that do not answer: the others serve the rest.
        while len(found) < COUNT - 2:
            answer = await anext(answers)
            found[answer.member.name] = answer
        assert names - found.keys() == {SILENT, LATE}
        with opened(late):
            answer = await anext(answers)
            found[answer.member.name] = answer
        await answers.aclose()
    assert names - found.keys() == {SILENT}
    rebooted = found[REBOOTED].error
    assert isinstance(rebooted, errors.NodeMismatch)
    assert rebooted.metadata == {"field": "node.boot_id", "expected": BOOT, "actual": OTHER_BOOT}
    assert rebooted.nothing_signalled
    for name in names - {SILENT, REBOOTED}:
        assert found[name].value().identity == NodeRef(name, BOOT)


async def test_everybody_has_an_answer_when_the_deadline_of_the_whole_has_passed(members: list[Member]) -> None:
    async with AsyncFleet(members, concurrency=1) as fleet:
        found = [answer async for answer in fleet.get_node([SILENT, *(member.name for member in members[:5])], deadline=1)]
    assert [answer.member.name for answer in found] == [SILENT, *(name_of(number) for number in range(5))]
    for answer in found:
        assert isinstance(answer.error, errors.DeadlineExceeded)
        assert answer.error.nothing_signalled, "it reads, or was not asked"
    assert "was not asked" in str(found[1].error)


async def test_a_kill_that_nobody_answers_leaves_open_whether_it_killed(members: list[Member]) -> None:
    async with AsyncFleet(members) as fleet:
        asked = [(SILENT, Process(1)), (REBOOTED, Process(2)), (name_of(0), Process(3))]
        found = {answer.member.name: answer async for answer in fleet.kill_and_release(asked, deadline=3)}
    assert found[name_of(0)].value().verdict is Verdict.RELEASED
    lost, mismatch = found[SILENT].error, found[REBOOTED].error
    assert isinstance(lost, errors.DeadlineExceeded)
    assert not lost.nothing_signalled
    assert found[SILENT].request_id, "by which it is found out"
    assert isinstance(mismatch, errors.NodeMismatch)
    assert mismatch.nothing_signalled


async def test_each_target_is_killed_on_its_own_node(well: list[Member]) -> None:
    asked = [FleetRequest(member.name, Process(1000 + number)) for number, member in enumerate(well)]
    async with AsyncFleet(well) as fleet:
        found = [answer async for answer in fleet.kill_and_release(asked)]
        again = [answer async for answer in fleet.kill_and_release([replace(asked[0], request_id=found[0].request_id)])]
    assert len(found) == len(well)
    for answer in found:
        assert isinstance(answer.target, Process)
        assert answer.value().node.name == answer.member.name == well[answer.target.pid - 1000].name
        assert answer.value().request_id == answer.request_id
    assert len({answer.request_id for answer in found}) == len(found)
    if found[0].target == asked[0].target:
        assert again[0].value().replayed


async def test_placements_of_a_resolver_are_requests(well: list[Member]) -> None:
    first, second = well[:2]
    there = Placement(first.name, Process(5), NodeRef(first.name, BOOT), "a part", agent=Agent(first.address))
    elsewhere = Placement(second.name, Process(6), NodeRef(second.name, OTHER_BOOT), "another", agent=Agent(second.address))
    nowhere = Placement("gone", Process(7), NodeRef(), "a third", problem=errors.NoAgent("there is no agent on node gone"))
    async with AsyncFleet() as fleet:
        found = {answer.member.name: answer.result async for answer in fleet.release([there, elsewhere, nowhere])}
    assert isinstance(found[first.name], ReleaseResult)
    assert isinstance(found[second.name], errors.NodeMismatch)
    assert isinstance(found["gone"], errors.NoAgent)


async def test_by_mutual_tls_each_with_one_set_of_certificates(tmp_path: Path) -> None:
    pki, other = Pki.make(tmp_path / "a"), Pki.make(tmp_path / "b")
    with fleet_agents(5, pki=pki, tmp=tmp_path) as crowd:
        members = [Member(name, address, node=NodeRef(name, BOOT)) for name, address in crowd.agents.items()]
        stranger = Member("stranger", members[0].address, tls=other.tls("client"))
        broken = Member("broken", members[0].address, tls=replace(shown(pki), cert=tmp_path / "none"))
        async with AsyncFleet([*members, stranger, broken], tls=shown(pki)) as fleet:
            found = {answer.member.name: answer.result async for answer in fleet.get_node()}
    assert isinstance(found.pop("stranger"), errors.Unreachable)
    assert isinstance(found.pop("broken"), errors.InvalidTLS)
    assert all(isinstance(node, Node) for node in found.values())
    assert len(found) == 5


async def test_more_members_than_connections_are_all_asked_and_no_more_are_open() -> None:
    with fleet_agents(20) as crowd:
        ports = {f"{int(address.rpartition(':')[2]):04X}" for address in crowd.agents.values()}

        def connected() -> int:
            # gRPC's sockets are for both versions of IP.
            tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
            rows = [line.split() for table in tables for line in table]
            return sum(row[3] == "01" and row[2].rpartition(":")[2] in ports for row in rows)

        most = 0
        async with AsyncFleet(crowd.agents.values(), concurrency=2, connections=4) as fleet:
            for _ in range(2):
                answers = [answer async for answer in fleet.get_node()]
                assert [answer.error for answer in answers] == [None] * 20
                most = max(most, connected())
    # One that was closed may be in gRPC's hands for another moment.
    assert 0 < most < 10


def test_without_asyncio(well: list[Member]) -> None:
    with Fleet(well) as fleet:
        assert {answer.value().identity.name for answer in fleet.get_node()} == {member.name for member in well}
        for answer in fleet.kill_and_release((member.name, Process(9)) for member in well):
            assert answer.value().verdict is Verdict.RELEASED
            break
        lists = {answer.member.name: len(answer.value()) for answer in fleet.list_processes([well[0].name], limit=1)}
    assert lists == {well[0].name: 1}


async def test_each_gives_a_client_and_what_it_raises_is_the_answer(members: list[Member], well: list[Member]) -> None:
    async with AsyncFleet(members) as fleet:

        async def work(client: object, member: Member) -> str:
            del client
            if member.name == SILENT:
                await asyncio.Event().wait()
            if member.name == LATE:
                raise errors.NoAgent("not today")
            return member.name.upper()

        found = {answer.member.name: answer.result async for answer in fleet.each(work, timeout=1)}
    assert isinstance(found[SILENT], errors.DeadlineExceeded)
    assert isinstance(found[LATE], errors.NoAgent)
    assert found[well[0].name] == well[0].name.upper()
