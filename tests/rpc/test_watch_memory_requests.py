"""WatchMemory: requests that are refused by name, and answers that are the contract."""

from __future__ import annotations

from collections.abc import Generator

import grpc
import pytest

from mrelease.v1 import node_service_pb2
from support import lab, raw
from support.agent import Agent
from support.raw import WATCH_MEMORY, field

NANO = 1_000_000_000


def duration(number: int, seconds: int, nanos: int = 0) -> bytes:
    return field(number, field(1, seconds) + field(2, nanos))


@pytest.fixture
def call(agent: Agent) -> Generator[raw.Caller, None, None]:
    with raw.caller(agent.address) as caller:
        yield caller
        assert caller(raw.HEALTH, b"").body == raw.SERVING


SECOND = duration(2, 1)


WINDOW = duration(3, 2)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (duration(1, 0, 99_999_999), "interval"),
        (duration(1, 3600, 1), "interval"),
        (duration(1, -1), "interval"),
        (duration(1, 0), "interval"),
        (duration(1, 1, -1), "interval"),
        (duration(1, 2**63 - 1), "interval"),
        (duration(1, 1, NANO), "interval"),
        (field(2, b""), "within"),
        (field(2, field(1, field(1, 1))), "within"),
        (field(2, field(3, field(1, "uid"))), "within"),
        (field(2, field(2, b"")), "within.container.id"),
        (field(2, field(2, field(1, "../../" * 700))), "within.container.id"),
        (field(2, field(4, b"")), "within.cgroup.path"),
        (field(2, field(4, field(1, "/../x"))), "within.cgroup.path"),
        (field(2, field(4, field(1, "/x\n"))), "within.cgroup.path"),
        (field(3, b""), "trigger.window"),
        (field(3, SECOND), "trigger.window"),
        (field(3, WINDOW), "trigger.stall"),
        (field(3, field(1, 3) + SECOND + WINDOW), "trigger.kind"),
        (field(3, field(1, -1) + SECOND + WINDOW), "trigger.kind"),
        (field(3, duration(2, 2, 1) + WINDOW), "trigger.stall"),
        (field(3, duration(2, -1) + WINDOW), "trigger.stall"),
        (field(3, SECOND + duration(3, 0, NANO // 2 - 1)), "trigger.window"),
        (field(3, SECOND + duration(3, 10, 1)), "trigger.window"),
        (field(3, SECOND + duration(3, -(2**63))), "trigger.window"),
        (field(4, 1), "4"),
        (field(2, field(9, 1)), "within.9"),
        (field(3, SECOND + WINDOW + field(4, 1)), "trigger.4"),
        (b"\xff\xff\xff", "request"),
    ],
)
def test_hostile_requests_are_refused_by_name(call: raw.Caller, request_: bytes, named: str) -> None:
    answer = call.ended(call.stream(WATCH_MEMORY, request_))
    raw.assert_refused(answer, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", named)
    assert answer.body == b""


def test_groups_that_nobody_may_name_are_protected(call: raw.Caller) -> None:
    answer = call.ended(call.stream(WATCH_MEMORY, field(2, field(4, field(1, "/")))))
    raw.assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED, "PROTECTED", "within.cgroup.path")


def test_what_a_stream_says_is_the_contract(call: raw.Caller) -> None:
    stream = call.stream(WATCH_MEMORY, b"")
    message = node_service_pb2.WatchMemoryResponse.FromString(next(stream))
    stream.cancel()
    assert message.memory.total_bytes == lab.meminfo("MemTotal")
    assert message.sample_time.seconds > 1_600_000_000
    assert not message.HasField("cgroup")
