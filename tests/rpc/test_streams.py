"""The interceptor around answers that are streams, with a behaviour that a test chooses: no method of the agent does all of this."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from mrelease import _status
from mrelease.v1 import error_reason_pb2, node_service_pb2
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.interceptor import Interceptor
from mrelease_agent.telemetry.metrics import Metrics
from support import lab, raw

Response = node_service_pb2.WatchMemoryResponse
Behaviour = Callable[[Any], AsyncGenerator[Response, None]]
WATCH_MEMORY = raw.WATCH_MEMORY
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
PATIENCE = 30.0


class Counts(Metrics):
    """What was counted."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def request(self, method: str, code: str) -> None:
        self.requests.put_nowait((method, code))


class Service:
    """WatchMemory as a test wants it, and nothing else of NodeService."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.cleaned = asyncio.Event()

    async def watch(self, request: Any, _context: Any) -> AsyncGenerator[Response, None]:
        try:
            async for message in self._behaviour(request):
                yield message
        finally:
            self.cleaned.set()


class Server:
    """A running server with one client."""

    def __init__(self, server: grpc.aio.Server, service: Service, counts: Counts, channel: grpc.aio.Channel) -> None:
        self.server, self.service, self.counts, self._channel = server, service, counts, channel

    def call(self, request: bytes = b"", method: str = WATCH_MEMORY, timeout: float | None = PATIENCE) -> Any:
        return begin(self._channel, method, request, timeout)

    async def counted(self) -> tuple[str, str]:
        return await asyncio.wait_for(self.counts.requests.get(), PATIENCE)

    async def cleaned(self) -> None:
        await asyncio.wait_for(self.service.cleaned.wait(), PATIENCE)


def begin(channel: Any, method: str, request: bytes, timeout: float | None) -> Any:
    """A call of bytes: the stubs' generics are over messages."""
    return channel.unary_stream(method)(request, timeout=timeout)


@contextlib.asynccontextmanager
async def serving(folder: Path, behaviour: Behaviour) -> AsyncGenerator[Server, None]:
    counts, service = Counts(), Service(behaviour)
    server = grpc.aio.server(interceptors=[Interceptor(counts)])
    make: Any = grpc.unary_stream_rpc_method_handler
    handler = make(service.watch, node_service_pb2.WatchMemoryRequest.FromString, Response.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mrelease.v1.NodeService", {"WatchMemory": handler}),))
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)  # pyright: ignore[reportUnknownMemberType]
    address = f"unix://{folder}/s.sock"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield Server(server, service, counts, channel)
        finally:
            await server.stop(None)


async def read_all(call: Any) -> tuple[int, raw.Answer]:
    """How many messages came, and how the stream ended."""
    received = 0
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            received += 1
    trailers: dict[str, Any] = dict(await call.trailing_metadata() or ())
    code = await call.code()
    return received, raw.Answer(code, await call.details() or "", b"", trailers.get(_status.TRAILER, b""))


async def endless(_request: Any) -> AsyncGenerator[Response, None]:
    while True:
        yield Response(triggered=True)
        await asyncio.sleep(0)


async def silent(_request: Any) -> AsyncGenerator[Response, None]:
    yield Response()
    await asyncio.Event().wait()


async def test_a_stream_that_ends_by_itself_is_ok(tmp_path: Path) -> None:
    async def three(_request: Any) -> AsyncGenerator[Response, None]:
        for _ in range(3):
            yield Response()

    async with serving(tmp_path, three) as server:
        received, answer = await read_all(server.call())
        assert (received, answer.code) == (3, grpc.StatusCode.OK)
        assert await server.counted() == ("WatchMemory", "OK")


async def test_an_error_after_some_messages_comes_with_details(tmp_path: Path) -> None:
    async def refusing(_request: Any) -> AsyncGenerator[Response, None]:
        yield Response()
        raise RpcError(error_reason_pb2.ERROR_REASON_SHUTTING_DOWN, "over", "come again")

    async with serving(tmp_path, refusing) as server:
        received, answer = await read_all(server.call())
        assert received == 1
        raw.assert_refused(answer, grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert await server.counted() == ("WatchMemory", "UNAVAILABLE")


async def test_no_text_of_a_defect_gets_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_request: Any) -> AsyncGenerator[Response, None]:
        yield Response()
        raise RuntimeError("the secret of /usr/lib/secret.py")

    async with serving(tmp_path, broken) as server:
        received, answer = await read_all(server.call())
        assert received == 1
        raw.assert_refused(answer, grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in answer.message + answer.status.decode("utf-8", "replace")
        assert await server.counted() == ("WatchMemory", "INTERNAL")
    (logged,) = (record for record in caplog.records if record.message == "internal error")
    assert logged.exc_info


@pytest.mark.parametrize(("request_", "named"), [(b"\xff\xff", "request"), (raw.field(99, 1), "99")])
async def test_requests_are_checked_before_the_behaviour_sees_them(tmp_path: Path, request_: bytes, named: str) -> None:
    async with serving(tmp_path, endless) as server:
        for method in (WATCH_MEMORY, HEALTH_WATCH):
            received, answer = await read_all(server.call(request_, method))
            assert received == 0
            raw.assert_refused(answer, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", named)
            assert await server.counted() == (method.rpartition("/")[2], "INVALID_ARGUMENT")
        assert not server.service.cleaned.is_set()


@pytest.mark.parametrize("behaviour", [silent, endless], ids=["waits", "writes"])
@pytest.mark.parametrize("leave", ["cancel", "deadline", "disconnect"])
async def test_who_goes_away_ends_the_behaviour_at_once(
    tmp_path: Path, behaviour: Behaviour, leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever it is: in its own wait, or in the middle of a write that nobody reads."""
    async with serving(tmp_path, behaviour) as server:
        if leave == "disconnect":
            async with grpc.aio.insecure_channel(f"unix://{tmp_path}/s.sock") as other:
                call = begin(other, WATCH_MEMORY, b"", PATIENCE)
                await call.read()
        elif leave == "cancel":
            call = server.call()
            await call.read()
            call.cancel()
        else:
            # The deadline that is long enough for the behaviour to begin.
            for timeout in (0.1, 1, 10):
                call = server.call(timeout=timeout)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call.read()
                    break
        await server.cleaned()
        assert await server.counted() == ("WatchMemory", "CANCELLED")
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_caller_that_does_not_read_stops_the_behaviour_and_not_the_server(tmp_path: Path) -> None:
    """What is on its way to it is bounded by gRPC's flow control: the behaviour is not asked for more."""
    made = 0

    async def counting(_request: Any) -> AsyncGenerator[Response, None]:
        nonlocal made
        large = Response()
        large.cgroup.path = "x" * 4000
        while True:
            made += 1
            yield large

    async with serving(tmp_path, counting) as server:
        call = server.call()
        await call.read()
        async with grpc.aio.insecure_channel(f"unix://{tmp_path}/s.sock") as other:
            stub: Any = health_pb2_grpc.HealthStub(other)  # pyright: ignore[reportUnknownMemberType]
            before = -1
            # It has stopped when a hundred answered calls went by without one more.
            while made != before:
                before = made
                for _ in range(100):
                    await stub.Check(health_pb2.HealthCheckRequest())
                    assert await server.counted() == ("Check", "OK")
        assert made < 16 * lab.MIB // 4000
        await call.read()
        call.cancel()
        await server.cleaned()
        assert await server.counted() == ("WatchMemory", "CANCELLED")


async def test_a_behaviour_that_writes_itself_is_served_too(tmp_path: Path) -> None:
    async with serving(tmp_path, silent) as server:
        call = server.call(health_pb2.HealthCheckRequest(service="").SerializeToString(), HEALTH_WATCH)
        assert await call.read() == raw.SERVING
        call.cancel()
        assert await server.counted() == ("Watch", "CANCELLED")


async def test_a_server_that_stops_does_not_wait_for_who_does_not_read(tmp_path: Path) -> None:
    async with serving(tmp_path, endless) as server:
        call = server.call()
        await call.read()
        await asyncio.wait_for(server.server.stop(0.1), PATIENCE)
        await server.cleaned()
