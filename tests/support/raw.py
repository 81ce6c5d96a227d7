"""gRPC without the SDK and without its messages: bytes in, status and details out, so that a test can send what no client would.

Details are read here from the wire and not by the agent's own reader, which could have the same mistake as its writer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from mrelease import _status
from support import patience

KILL = "/mrelease.v1.ReleaseService/KillAndRelease"
RELEASE = "/mrelease.v1.ReleaseService/Release"
GET_NODE = "/mrelease.v1.NodeService/GetNode"
LIST = "/mrelease.v1.NodeService/ListProcesses"
WATCH_MEMORY = "/mrelease.v1.NodeService/WatchMemory"
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
PATIENCE = 30.0 * patience.FACTOR
#: What a text that Python made looks like: a trace, an exception's repr, a path or a module of the agent's.
_INTERNALS = re.compile(
    r"Traceback|Error\(|Exception|\.py\b|site-packages|/usr/|object at 0x|<class|grpc\.aio|google\.protobuf\.message|_upb|_message\."
)
OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``body`` of an OK, else ``message`` and the serialized google.rpc.Status of the trailer."""

    code: grpc.StatusCode
    message: str
    body: bytes
    status: bytes

    @property
    def details(self) -> _status.ErrorDetails | None:
        """The details as the SDK reads them."""
        return _status.decode([(_status.TRAILER, self.status)])

    def parts(self, name: str) -> list[dict[int, list[Any]]]:
        """The fields of each detail of type google.rpc.``name``."""
        anys = [message(part) for part in message(self.status).get(3, [])]
        return [message(part[2][0]) for part in anys if part[1] == [f"type.googleapis.com/google.rpc.{name}".encode()]]


class Caller:
    """A connection that takes and gives bytes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel: Any = channel  # its stubs are generic over messages, and here are none

    def __call__(self, method: str, request: bytes, timeout: float = PATIENCE) -> Answer:
        """Make one unary call."""
        return _answer(self.start(method, request, timeout))

    def start(self, method: str, request: bytes, timeout: float = PATIENCE) -> Any:
        """Begin a unary call; ``finish`` waits for its answer, its ``cancel()`` gives it up."""
        return self._channel.unary_unary(method).future(request, timeout=timeout)

    def stream(self, method: str, request: bytes, timeout: float | None = PATIENCE) -> Any:
        """Begin a call that is answered with a stream of bytes; ``ended`` says how it ended, its ``cancel()`` gives it up."""
        return self._channel.unary_stream(method)(request, timeout=timeout)

    def ended(self, stream: Any) -> Answer:
        """Read a stream to its end; the body is that of its last message."""
        body = b""
        with contextlib.suppress(grpc.RpcError):
            for message_ in stream:
                body = message_
        trailers: dict[str, bytes] = dict(stream.trailing_metadata() or ())
        return Answer(stream.code(), stream.details() or "", body, trailers.get(_status.TRAILER, b""))

    def finish(self, call: Any) -> Answer:
        """Wait for the answer of a call begun by ``start``."""
        return _answer(call)


def _answer(call: Any) -> Answer:
    trailers: dict[str, bytes] = dict(call.trailing_metadata() or ())
    code = call.code()
    return Answer(code, call.details() or "", call.result() if code is grpc.StatusCode.OK else b"", trailers.get(_status.TRAILER, b""))


@contextmanager
def caller(address: str) -> Generator[Caller, None, None]:
    """A connection of its own to ``unix:///path`` or ``host:port``."""
    with grpc.insecure_channel(address, OPTIONS) as channel:
        yield Caller(channel)


def assert_refused(answer: Answer, code: grpc.StatusCode, reason: str, field: str | None = None) -> None:
    """The call failed as the contract says: one ErrorInfo of ours, with ``field`` where one is to blame, and nothing of our insides."""
    assert answer.code is code, answer
    assert message(answer.status)[1] == [code.value[0]]
    infos = answer.parts("ErrorInfo")
    assert len(infos) == 1, answer
    assert infos[0][1] == [reason.encode()], answer
    assert infos[0][2] == [b"mrelease.dev"]
    details = answer.details
    assert details is not None
    if field is not None:
        assert details.metadata["field"] == field, answer
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = [message(raw) for part in answer.parts("BadRequest") for raw in part[1]]
        assert [violation[1][0].decode() for violation in violations] == [details.metadata["field"]]
    if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
        assert len(answer.parts("RetryInfo")) == 1
        assert details.retry_after
    assert_no_internals(answer)


def assert_no_internals(answer: Answer) -> None:
    """Neither message nor details say anything that only the agent's source explains."""
    for text in (answer.message, answer.status.decode("utf-8", "replace")):
        assert not _INTERNALS.search(text), answer


def varint(number: int) -> bytes:
    """A number as protobuf writes it; a negative one takes ten bytes, like int64 and int32."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | bytes | str) -> bytes:
    """One field on the wire: a varint, or bytes with their length (also of a message)."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def process(pid: int, *more: bytes) -> bytes:
    """Field ``target`` of a request: the process with ``pid``; ``more`` goes into its ProcessTarget."""
    return field(1, field(1, field(1, pid) + b"".join(more)))


def message(data: bytes) -> dict[int, list[Any]]:
    """The fields of a message by their numbers, varints as int, the rest as bytes."""
    found: dict[int, list[Any]] = {}
    for number, value in _fields(data):
        found.setdefault(number, []).append(value)
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0

    def number() -> int:
        nonlocal at
        shift = value = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        else:
            size = number() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
            yield tag >> 3, data[at : at + size]
            at += size
