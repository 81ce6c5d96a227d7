"""A fake agent: real gRPC on a real socket, answers from a script. For what a real agent cannot be brought to say on demand."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from mrelease import _status
from mrelease.v1 import node_service_pb2, release_service_pb2

_METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "/mrelease.v1.ReleaseService/KillAndRelease": (
        release_service_pb2.KillAndReleaseRequest,
        release_service_pb2.KillAndReleaseResponse,
    ),
    "/mrelease.v1.ReleaseService/Release": (release_service_pb2.ReleaseRequest, release_service_pb2.ReleaseResponse),
    "/mrelease.v1.NodeService/GetNode": (node_service_pb2.GetNodeRequest, node_service_pb2.GetNodeResponse),
    "/mrelease.v1.NodeService/ListProcesses": (node_service_pb2.ListProcessesRequest, node_service_pb2.ListProcessesResponse),
}

_STREAMS: dict[str, tuple[type[Message], type[Message]]] = {
    "/mrelease.v1.NodeService/WatchMemory": (node_service_pb2.WatchMemoryRequest, node_service_pb2.WatchMemoryResponse),
    "/mrelease.v1.ReleaseService/WatchRelease": (release_service_pb2.WatchReleaseRequest, release_service_pb2.WatchReleaseResponse),
    "/mrelease.v1.ReleaseService/Reclaim": (release_service_pb2.ReclaimRequest, release_service_pb2.ReclaimResponse),
}


@dataclass(frozen=True)
class Fail:
    """An answer that fails the call."""

    code: grpc.StatusCode
    message: str = "scripted"
    details: _status.ErrorDetails | None = None


@dataclass(frozen=True)
class Seen:
    """A request as it arrived: its method's name, and how many seconds its caller would wait."""

    method: str
    request: Any
    seconds_left: float


Answer = Message | Fail | Callable[[Any], Message | Fail]


@dataclass(frozen=True)
class Stream:
    """The messages of a stream, perhaps with a Fail at the end; without ``ends`` it goes on in silence until its caller leaves."""

    parts: Sequence[Message | Fail]
    ends: bool = True


@dataclass
class FakeAgent:
    """Answers each method from its queue; the last answer stays."""

    address: str
    seen: list[Seen] = field(default_factory=list[Seen])
    answers: dict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    streams: dict[str, deque[Stream]] = field(default_factory=lambda: defaultdict(deque))
    #: Set when the caller of a stream that goes on has left it.
    left: threading.Event = field(default_factory=threading.Event)

    def script(self, method: str, *answers: Answer) -> None:
        """Set the answers of a method, for example ``GetNode``."""
        self.answers[method] = deque(answers)

    def script_stream(self, method: str, *streams: Stream) -> None:
        """Set the streams of a method, for example ``WatchMemory``."""
        self.streams[method] = deque(streams)

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(seen.method == method for seen in self.seen)

    def handle(self, method: str, request: Any, context: grpc.ServicerContext) -> Message:
        """Answer one call."""
        self.seen.append(Seen(method, request, context.time_remaining()))
        queue = self.answers[method]
        answer = queue.popleft() if len(queue) > 1 else queue[0]
        if callable(answer):
            answer = answer(request)
        return _given(answer, context)

    def handle_stream(self, method: str, request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        """Answer one call with a stream."""
        self.seen.append(Seen(method, request, context.time_remaining()))
        queue = self.streams[method]
        stream = queue.popleft() if len(queue) > 1 else queue[0]
        try:
            for part in stream.parts:
                yield _given(part, context)
            # A caller that has left already calls nobody back.
            if not stream.ends and context.add_callback(self.left.set):
                self.left.wait()
        finally:
            # gRPC drops what it does not ask for any more.
            if not stream.ends:
                self.left.set()


def _given(answer: Message | Fail, context: grpc.ServicerContext) -> Message:
    if isinstance(answer, Message):
        return answer
    if answer.details is not None:
        context.set_trailing_metadata(((_status.TRAILER, _status.encode(answer.code, answer.message, answer.details)),))
    context.abort(answer.code, answer.message)
    raise AssertionError("abort() raises")


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, agent: FakeAgent) -> None:
        self._agent = agent

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        path = handler_call_details.method
        if path in _STREAMS:
            return self._stream(path)
        if path not in _METHODS:
            return None
        method, (request, response) = path.rpartition("/")[2], _METHODS[path]

        def answer(message: Message, context: grpc.ServicerContext) -> Message:
            return self._agent.handle(method, message, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString
        )

    def _stream(self, path: str) -> grpc.RpcMethodHandler[Any, Any] | None:
        method, (request, response) = path.rpartition("/")[2], _STREAMS[path]
        if not self._agent.streams[method]:  # an older agent
            return None

        def answer(message: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            return self._agent.handle_stream(method, message, context)

        return grpc.unary_stream_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=response.SerializeToString
        )


@contextmanager
def fake_agent(directory: Path, *, tcp: bool = False) -> Generator[FakeAgent]:
    """Serve a fake agent on a socket in a directory, or on a loopback port."""
    agent = FakeAgent(f"unix://{directory}/fake.sock")
    with ThreadPoolExecutor(40) as pool:
        server = grpc.server(pool, handlers=[_Handlers(agent)])
        if tcp:
            agent.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            server.add_insecure_port(agent.address)
        server.start()
        try:
            yield agent
        finally:
            server.stop(None).wait()


@contextmanager
def killing_agent(directory: Path, killed: Callable[[Any], release_service_pb2.KillAndReleaseResponse]) -> Generator[FakeAgent]:
    """A fake agent whose kills and releases both end as ``killed`` says of the request."""
    with fake_agent(directory) as fake:
        fake.script("KillAndRelease", killed)
        fake.script("Release", lambda request: release_service_pb2.ReleaseResponse(result=killed(request).result))
        yield fake


@contextmanager
def agent_that_hangs_up(directory: Path) -> Generator[str]:
    """A server that takes a request completely and then closes its connections: what a caller sees when the agent is killed."""
    path = f"{directory}/hangs-up.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(_frame(type_=4))
                    _read_request(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix://{path}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _frame(type_: int) -> bytes:
    # RFC 9113 §4.1, without payload: 4 is SETTINGS
    return struct.pack(">BHBBI", 0, 0, type_, 0, 0)


def _read_request(connection: socket.socket) -> None:
    with connection.makefile("rb") as stream:
        stream.read(24)  # connection preface
        while len(header := stream.read(9)) == 9:
            high, low, type_, flags, _ = struct.unpack(">BHBBI", header)
            stream.read((high << 16) + low)
            if type_ == 0 and flags & 1:  # DATA with END_STREAM: the request is complete
                return
