"""Both clients against a scripted agent: what they send, how often, and what they make of each answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

import mrelease
from mrelease import _failure, _status, errors
from mrelease.v1 import node_service_pb2, release_service_pb2
from support.sdk_fake_agent import Fail, FakeAgent, agent_that_hangs_up, fake_agent
from support.sdk_samples import full_message

TARGET = mrelease.Process(4711, 99)
KILLED = full_message(release_service_pb2.KillAndReleaseResponse)
NODE = full_message(node_service_pb2.GetNodeResponse)
UNAVAILABLE = Fail(grpc.StatusCode.UNAVAILABLE, "overloaded proxy")
SHUTTING_DOWN = Fail(grpc.StatusCode.UNAVAILABLE, "the agent stops", _status.ErrorDetails("SHUTTING_DOWN", {}, retry_after=1))

#: Calls a method of a client by name and returns its value.
Caller = Callable[..., Any]


def call_sync(address: str, method: str, *args: Any, timeout: float = 10.0, **kwargs: Any) -> Any:
    with mrelease.Client(address, timeout=timeout) as client:
        return getattr(client, method)(*args, **kwargs)


def call_async(address: str, method: str, *args: Any, timeout: float = 10.0, **kwargs: Any) -> Any:
    async def run() -> Any:
        async with mrelease.AsyncClient(address, timeout=timeout) as client:
            return await getattr(client, method)(*args, **kwargs)

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest) -> Caller:
    caller: Caller = request.param
    return caller


@pytest.fixture
def fake(tmp_path: Path) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as fake:
        fake.script("KillAndRelease", KILLED)
        fake.script("Release", full_message(release_service_pb2.ReleaseResponse))
        fake.script("GetNode", NODE)
        yield fake


def pages(total: int) -> Callable[[Any], Message]:
    """Answers ListProcesses out of `total` processes."""

    def answer(request: Any) -> Message:
        start = int(request.page_token or 0)
        end = min(total, start + request.page_size)
        response = node_service_pb2.ListProcessesResponse(next_page_token=str(end) if end < total else "")
        response.node.name = "n7"
        for pid in range(start, end):
            response.processes.add().process.pid = pid + 1
        return response

    return answer


def test_every_method_has_its_request_and_a_deadline(fake: FakeAgent, call: Caller) -> None:
    fake.script("ListProcesses", pages(3))
    assert call(fake.address, "kill_and_release", TARGET, timeout=7).verdict is mrelease.Verdict.RELEASED
    assert call(fake.address, "release", TARGET, timeout=7).verdict is mrelease.Verdict.RELEASED
    assert call(fake.address, "get_node", timeout=7).can(mrelease.Feature.PROCESS_MRELEASE)
    assert [p.pid for p in call(fake.address, "list_processes", timeout=7)] == [1, 2, 3]
    kill, release, node, processes = fake.seen
    # A kill and a release may take their timeout, and the answer 5 s more. gRPC rounds up what it puts on the wire.
    assert (kill.request.timeout.seconds, release.request.timeout.seconds) == (7, 7)
    assert 7 < kill.seconds_left < 13
    assert 7 < release.seconds_left < 13
    assert 0 < node.seconds_left < 8
    assert 0 < processes.seconds_left < 8
    assert kill.request.target.process.pidfd_inode == 99
    assert not kill.request.HasField("node")
    assert not kill.request.HasField("reap_delay")
    assert kill.request.wait == mrelease.Wait.RELEASED


def test_a_list_follows_the_pages_up_to_its_limit(fake: FakeAgent, call: Caller) -> None:
    fake.script("ListProcesses", pages(2500))
    assert len(call(fake.address, "list_processes")) == 50
    assert len(call(fake.address, "list_processes", limit=None)) == 2500
    assert [p.pid for p in call(fake.address, "list_processes", limit=1200, uid=0)] == list(range(1, 1201))
    assert [s.request.page_size for s in fake.seen] == [50, 1000, 1000, 1000, 1000, 200]
    assert [s.request.HasField("uid") for s in fake.seen] == [False] * 4 + [True] * 2
    with pytest.raises(ValueError, match="limit"):
        call(fake.address, "list_processes", limit=0)


def test_an_agent_that_pages_without_end_is_left(fake: FakeAgent, call: Caller) -> None:
    fake.script("ListProcesses", node_service_pb2.ListProcessesResponse(next_page_token="again"))
    assert len(call(fake.address, "list_processes", limit=None)) == 0


@pytest.mark.parametrize("answer", [UNAVAILABLE, SHUTTING_DOWN], ids=["bare", "SHUTTING_DOWN"])
def test_reads_are_made_again_while_the_agent_is_unavailable(fake: FakeAgent, call: Caller, answer: Fail) -> None:
    fake.script("GetNode", answer, answer, NODE)
    assert call(fake.address, "get_node").identity.name
    assert fake.count("GetNode") == 3


def test_reads_are_not_made_again_without_end(fake: FakeAgent, call: Caller) -> None:
    fake.script("GetNode", SHUTTING_DOWN)
    with pytest.raises(errors.ShuttingDown):
        call(fake.address, "get_node")
    assert fake.count("GetNode") == 4


@pytest.mark.parametrize("method", ["kill_and_release", "release"])
@pytest.mark.parametrize("answer", [UNAVAILABLE, SHUTTING_DOWN], ids=["bare", "SHUTTING_DOWN"])
def test_what_kills_or_releases_is_never_made_again(fake: FakeAgent, call: Caller, method: str, answer: Fail) -> None:
    name = {"kill_and_release": "KillAndRelease", "release": "Release"}[method]
    fake.script(name, answer, KILLED)
    with pytest.raises(errors.AgentError):
        call(fake.address, method, TARGET)
    assert fake.count(name) == 1


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK], ids=lambda c: c.name)
def test_every_status_arrives_as_its_class(fake: FakeAgent, call: Caller, code: grpc.StatusCode) -> None:
    fake.script("KillAndRelease", Fail(code))
    with pytest.raises(_failure.BY_CODE[code]) as caught:
        call(fake.address, "kill_and_release", TARGET)
    assert caught.value.code is code


@pytest.mark.parametrize("reason", sorted(_failure.BY_REASON))
def test_every_reason_arrives_with_its_details(fake: FakeAgent, call: Caller, reason: str) -> None:
    details = _status.ErrorDetails(reason, {"pid": "4711", "remedy": "do this"}, retry_after=2.0)
    fake.script("KillAndRelease", Fail(grpc.StatusCode.FAILED_PRECONDITION, "refused", details))
    with pytest.raises(_failure.BY_REASON[reason], match="do this") as caught:
        call(fake.address, "kill_and_release", TARGET)
    assert caught.value.metadata["pid"] == "4711"
    assert caught.value.retry_after is not None


def test_no_answer_by_the_deadline(fake: FakeAgent, call: Caller) -> None:
    # A deadline that is over when the call is made: no clock decides.
    with pytest.raises(errors.DeadlineExceeded) as caught:
        call(fake.address, "get_node", timeout=-1)
    assert caught.value.nothing_signalled


def test_an_agent_too_busy_to_greet_is_waited_for_until_the_deadline(tmp_path: Path, call: Caller) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/busy.sock")
        listener.listen()
        with pytest.raises(errors.DeadlineExceeded, match="no answer"):
            call(f"unix://{tmp_path}/busy.sock", "get_node", timeout=0.5)


def test_no_socket_is_unreachable_and_harmless(tmp_path: Path, call: Caller) -> None:
    with pytest.raises(errors.Unreachable, match="there is no socket") as caught:
        call(f"unix://{tmp_path}/none.sock", "kill_and_release", TARGET)
    assert caught.value.nothing_signalled


def test_no_port_is_unreachable(call: Caller) -> None:
    # Nothing can listen on port 1 without having been asked to: tcpmux is long gone.
    with pytest.raises(errors.Unreachable, match=r"nothing answers at 127\.0\.0\.1:1"):
        call("127.0.0.1:1", "get_node")


def test_a_connection_that_breaks_leaves_open_what_happened(tmp_path: Path, call: Caller) -> None:
    with agent_that_hangs_up(tmp_path) as address, pytest.raises(errors.ConnectionLost, match="not known") as caught:
        call(address, "kill_and_release", TARGET)
    assert not caught.value.nothing_signalled


def test_a_dry_run_that_breaks_killed_nothing(tmp_path: Path, call: Caller) -> None:
    with agent_that_hangs_up(tmp_path) as address, pytest.raises(errors.ConnectionLost) as caught:
        call(address, "kill_and_release", TARGET, validate_only=True)
    assert caught.value.nothing_signalled


def test_a_socket_with_odd_characters_in_its_path(tmp_path: Path, call: Caller) -> None:
    odd = tmp_path / "a b"
    odd.mkdir()
    with fake_agent(tmp_path) as fake:
        fake.script("GetNode", NODE)
        (odd / "50%41?#.sock").symlink_to(tmp_path / "fake.sock")
        assert call(f"unix://{odd}/50%41?#.sock", "get_node").identity.name


def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with fake_agent(tmp_path, tcp=True) as fake:
        fake.script("GetNode", NODE)
        assert call(fake.address, "get_node").identity.name


def test_a_closed_client_says_so(fake: FakeAgent) -> None:
    client = mrelease.Client(fake.address)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get_node()


async def test_a_closed_async_client_says_so(fake: FakeAgent) -> None:
    client = mrelease.AsyncClient(fake.address)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_node()


def test_an_async_client_belongs_to_one_loop(fake: FakeAgent) -> None:
    client = mrelease.AsyncClient(fake.address)
    first = asyncio.new_event_loop()
    try:
        first.run_until_complete(client.get_node())
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(client.get_node())
        first.run_until_complete(client.close())
    finally:
        first.close()


async def test_calls_of_one_async_client_run_at_the_same_time(fake: FakeAgent) -> None:
    together = threading.Barrier(20)

    def answer(_: Any) -> Message:
        together.wait(30)
        return KILLED

    fake.script("KillAndRelease", answer)
    async with mrelease.AsyncClient(fake.address) as client:
        results = await asyncio.gather(*(client.kill_and_release(mrelease.Process(pid)) for pid in range(1, 21)))
    assert len(results) == 20
