"""Requests as they come from the wire: only INVALID_ARGUMENT comes out, and what is let in names processes and nothing wider."""

from __future__ import annotations

import math
import re

import grpc
from google.protobuf.message import Message

from fuzz.kit import assert_readable
from mrelease import _status
from mrelease.v1 import node_service_pb2, release_service_pb2, target_pb2
from mrelease_agent.linux.process import PID_MAX
from mrelease_agent.rpc import validate
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.interceptor import decode_request

MAX_TIMEOUT = 60.0
KINDS: tuple[type[Message], ...] = (
    release_service_pb2.KillAndReleaseRequest,
    release_service_pb2.ReleaseRequest,
    release_service_pb2.ReclaimRequest,
    release_service_pb2.WatchReleaseRequest,
    node_service_pb2.GetNodeRequest,
    node_service_pb2.ListProcessesRequest,
    node_service_pb2.WatchMemoryRequest,
)


def one_input(data: bytes) -> None:
    """The first byte chooses the method, the others are its request."""
    if not data:
        return
    kind = KINDS[data[0] % len(KINDS)]
    try:
        request = decode_request(data[1:], kind.FromString)
        check(request)
    except RpcError as error:
        refused(error)
        return
    assert kind.FromString(request.SerializeToString(deterministic=True)) == request


def refused(error: RpcError) -> None:
    """What its caller is told."""
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert_readable(error.message)
    details = _status.decode(error.trailers())
    assert details is not None
    assert details.reason == "INVALID_FIELD"
    assert details.metadata["field"]


def check(request: Message) -> None:
    """What the services check, and what has to hold after it."""
    if isinstance(request, release_service_pb2.KillAndReleaseRequest | release_service_pb2.ReleaseRequest):
        validate.request(request, max_timeout=MAX_TIMEOUT)
        named(request.target)
        assert len(request.reason.encode()) <= validate.MAX_REASON
        assert request.reason.isprintable()
        assert request.request_id.isascii()
    if isinstance(request, release_service_pb2.ReclaimRequest):
        validate.reclaim(request, max_timeout=MAX_TIMEOUT)
        assert 1 <= len(request.candidates) <= validate.MAX_CANDIDATES
        for candidate in request.candidates:
            named(candidate)
    if isinstance(request, release_service_pb2.KillAndReleaseRequest | release_service_pb2.ReclaimRequest):
        period, signal = validate.grace(request)
        assert 0 <= period <= MAX_TIMEOUT
        assert 1 <= signal <= 64
        assert signal != 9
        assert 0 < (request.timeout.ToNanoseconds() if request.HasField("timeout") else 1) <= MAX_TIMEOUT * 1e9
    if isinstance(request, release_service_pb2.WatchReleaseRequest):
        validate.watch(request)
        assert 1 <= len(request.request_id) <= 128
    if isinstance(request, node_service_pb2.ListProcessesRequest):
        validate.page(request.page_size, request.uid if request.HasField("uid") else None)
        if request.HasField("within"):
            validate.within(request.within)
            named(request.within)
    if isinstance(request, node_service_pb2.WatchMemoryRequest):
        interval, stall, window = validate.watch_memory(request)
        assert interval is None or 0.1 <= interval <= 3600
        assert 0 <= stall <= window <= 10
        assert math.isfinite(stall)


def named(target: target_pb2.Target) -> None:
    """It names one thing, and no number that kill(2) takes for a process group or for everybody."""
    kind = target.WhichOneof("kind")
    assert kind is not None
    if kind == "process":
        assert 1 <= target.process.pid <= PID_MAX
        assert target.process.pidfd_inode >= 0
        assert target.process.start_time_ticks >= 0
    if kind == "custom":
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,31}", target.custom.kind)
        assert len(target.custom.attributes) <= 16
        for name, value in target.custom.attributes.items():
            assert re.fullmatch(r"[a-z][a-z0-9_-]{0,31}", name)
            assert 1 <= len(value.encode()) <= 256
            assert value.isprintable()
