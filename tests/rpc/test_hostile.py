"""Requests that no honest client sends: each is refused by name, and the agent serves the next one."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
from collections.abc import Generator

import grpc
import pytest
from google.protobuf.message import DecodeError

from mrelease.v1 import outcome_pb2, release_service_pb2
from support import lab, raw
from support.agent import Agent
from support.raw import GET_NODE, HEALTH, KILL, LIST, RELEASE, field, process

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PID = os.getpid()  # an ancestor of the agent: protected, so a request that gets too far kills nothing
#: Almost the longest request.
BIG = "x" * (500 << 10)
TIMEOUT, REAP_DELAY, VALIDATE_ONLY = 4, 5, field(7, 1)


@pytest.fixture
def call(agent: Agent) -> Generator[raw.Caller, None, None]:
    """A raw caller; after the test the agent is the same process, and serves."""
    with raw.caller(agent.address) as caller:
        yield caller
        assert agent.process.poll() is None
        assert caller(HEALTH, b"").body == raw.SERVING
        assert caller(GET_NODE, b"").code is grpc.StatusCode.OK


def refused(call: raw.Caller, method: str, request: bytes, named: str) -> None:
    raw.assert_refused(call(method, request), INVALID, "INVALID_FIELD", named)


@pytest.mark.parametrize("method", [KILL, RELEASE], ids=["kill", "release"])
@pytest.mark.parametrize("pid", [0, -1, -PID, 4194305, 2**31, 2**32 + PID, 2**33 + PID, 2**63 - 1, -(2**63)])
def test_pids_out_of_range(call: raw.Caller, method: str, pid: int) -> None:
    refused(call, method, process(pid), "target.process.pid")


@pytest.mark.parametrize("number", [2, 3], ids=["pidfd_inode", "start_time_ticks"])
def test_identities_out_of_range(call: raw.Caller, number: int) -> None:
    name = {2: "pidfd_inode", 3: "start_time_ticks"}[number]
    for value in (-1, -(2**63)):
        refused(call, KILL, process(PID, field(number, value)), f"target.process.{name}")


def test_a_thread_is_no_process(call: raw.Caller) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        answer = call(KILL, process(thread.native_id))
        raw.assert_refused(answer, INVALID, "INVALID_FIELD", "target.process.pid")
        assert str(PID) in answer.message
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("method", [KILL, RELEASE], ids=["kill", "release"])
@pytest.mark.parametrize("value", [3, -1, 255, 2**31 - 1, -(2**31), 2**32 + 1])
def test_wait_out_of_range(call: raw.Caller, method: str, value: int) -> None:
    if value == 2**32 + 1:
        # protobuf itself cuts an enum to 32 bits: this is WAIT_RELEASED, and the request gets as far as the guard.
        raw.assert_refused(call(KILL, process(PID) + field(3, value)), grpc.StatusCode.PERMISSION_DENIED, "PROTECTED")
    else:
        refused(call, method, process(PID) + field(3, value), "wait")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (b"", "target"),
        (field(6, "why") + VALIDATE_ONLY, "target"),
        (field(1, b""), "target"),
        (field(1, field(1, b"")), "target.process.pid"),
    ],
    ids=["empty", "no-target", "empty-target", "empty-process"],
)
def test_missing_targets(call: raw.Caller, request_: bytes, named: str) -> None:
    refused(call, KILL, request_, named)
    if not request_.endswith(VALIDATE_ONLY):
        refused(call, RELEASE, request_, named)


@pytest.mark.parametrize(
    ("method", "request_", "named"),
    [
        (KILL, process(PID) + field(6, BIG), "reason"),
        (RELEASE, process(PID) + field(5, BIG), "reason"),
        (KILL, process(PID, field(4, BIG)), "target.process.container_id"),
        (KILL, process(PID) + field(2, field(1, BIG)), "node.name"),
        (KILL, process(PID) + field(2, field(2, BIG)), "node.boot_id"),
        (LIST, field(2, BIG), "page_token"),
    ],
    ids=["kill-reason", "release-reason", "container", "node-name", "boot-id", "page-token"],
)
def test_strings_of_half_a_mib(call: raw.Caller, method: str, request_: bytes, named: str) -> None:
    refused(call, method, request_, named)


def test_the_longest_reason_is_1024_bytes_not_characters(call: raw.Caller) -> None:
    longest = process(PID) + VALIDATE_ONLY + field(6, "ä" * 512)
    raw.assert_refused(call(KILL, longest), grpc.StatusCode.PERMISSION_DENIED, "PROTECTED")
    refused(call, KILL, process(PID) + field(6, "ä" * 512 + "x"), "reason")


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "\x1b[31m", "a\u2028b", "a\u202eb", "\x7f"], ids=ascii)
def test_control_characters(call: raw.Caller, text: str) -> None:
    refused(call, KILL, process(PID) + field(6, text), "reason")
    refused(call, KILL, process(PID, field(4, text)), "target.process.container_id")
    refused(call, KILL, process(PID) + field(2, field(1, text)), "node.name")
    refused(call, KILL, process(PID) + field(2, field(2, text)), "node.boot_id")
    refused(call, LIST, field(2, text), "page_token")


@pytest.mark.parametrize(
    ("method", "request_", "named"),
    [
        (KILL, process(PID) + field(15, 1), "15"),
        (KILL, process(PID) + field(536870911, b"x"), "536870911"),
        (KILL, field(1, field(1, field(1, PID)) + field(99, b"x")), "target.99"),
        (KILL, process(PID, field(9, 1)), "target.process.9"),
        (KILL, process(PID) + field(2, field(1, "n") + field(3, 7)), "node.3"),
        (KILL, process(PID) + field(TIMEOUT, field(1, 1) + field(3, 7)), "timeout.3"),
        (KILL, process(PID) + field(REAP_DELAY, field(8, 7)), "reap_delay.8"),
        (RELEASE, process(PID) + field(7, 1), "7"),
        (RELEASE, process(PID, field(5, b"x")), "target.process.5"),
        (GET_NODE, field(1, 1), "1"),
        (LIST, field(99, b"x"), "99"),
    ],
)
def test_fields_that_the_agent_does_not_know(call: raw.Caller, method: str, request_: bytes, named: str) -> None:
    """A newer client may rely on one as a condition: without it, more would be killed than was asked for."""
    refused(call, method, request_, named)


def test_a_known_field_of_another_type_is_not_known(call: raw.Caller) -> None:
    refused(call, KILL, process(PID) + field(7, b"\x01"), "7")


@pytest.mark.parametrize("number", [TIMEOUT, REAP_DELAY], ids=["timeout", "reap_delay"])
@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (-1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (1, -1),
        (-1, 1),
        (0, -(2**31)),
        (315_576_000_001, 0),
        (2**63 - 1, 0),
        (-(2**63), 0),
        (601, 0),
    ],
)
def test_durations(call: raw.Caller, number: int, seconds: int, nanos: int) -> None:
    duration = field(1, seconds) + field(2, nanos)
    refused(call, KILL, process(PID) + field(number, duration), "timeout" if number == TIMEOUT else "reap_delay")


def test_no_time_at_all_is_no_timeout_and_a_fair_delay(call: raw.Caller) -> None:
    refused(call, KILL, process(PID) + field(TIMEOUT, b""), "timeout")
    refused(call, RELEASE, process(PID) + field(TIMEOUT, b""), "timeout")
    answer = call(KILL, process(PID) + field(REAP_DELAY, b""))
    raw.assert_refused(answer, grpc.StatusCode.PERMISSION_DENIED, "PROTECTED")


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (field(1, -1), "page_size"),
        (field(1, 1001), "page_size"),
        (field(3, -1), "uid"),
        (field(3, 2**32), "uid"),
        (field(2, "x"), "page_token"),
        (field(2, "1." + "9" * 200), "page_token"),
        (field(2, "-1.-1"), "page_token"),
        (field(2, "٣.٣"), "page_token"),
    ],
)
def test_pages(call: raw.Caller, request_: bytes, named: str) -> None:
    refused(call, LIST, request_, named)


WHOLE = process(PID) + field(2, field(1, "node")) + field(TIMEOUT, field(1, 5)) + field(6, "why")


@pytest.mark.parametrize(
    "request_",
    [
        *(WHOLE[:size] for size in (1, 2, 4, len(WHOLE) - 1)),
        b"\xff" * 64,
        b"\x00" * 8,
        b"\x0b" * 5000,  # groups in groups
        field(6, b"\xff\xfe"),
        field(2, field(1, b"\xc3")),
        b"\x0a\xff\xff\xff\xff\x7f",
        b"<html>",
        random.Random(1).randbytes(4096),
    ],
    ids=["cut-1", "cut-2", "cut-4", "cut-last", "ff", "00", "groups", "utf-8", "utf-8-nested", "length", "text", "noise"],
)
def test_bytes_that_are_no_request(call: raw.Caller, request_: bytes) -> None:
    refused(call, KILL, request_, "request")


@pytest.mark.parametrize(
    "method", ["/mrelease.v1.ReleaseService/KillEverything", "/mrelease.v2.ReleaseService/Release", "/x", "/" + "m" * 2000]
)
def test_methods_that_do_not_exist(call: raw.Caller, method: str) -> None:
    answer = call(method, WHOLE)
    raw.assert_refused(answer, grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD")
    details = answer.details
    assert details is not None
    assert details.metadata["method"] == method[:256]


def test_more_than_the_largest_message(call: raw.Caller) -> None:
    """gRPC refuses it before it has it, in its own words."""
    for size in (512 << 10, 4 << 20, 64 << 20):
        answer = call(KILL, process(PID) + field(6, "x" * size))
        assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in answer.message
        raw.assert_no_internals(answer)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame, RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(**fields: str) -> bytes:
    """A header block of literals without indexing, RFC 7541 section 6.2.2; the names are written with underscores."""
    pairs = {":method": "POST", ":scheme": "http", ":path": KILL, ":authority": "x", "te": "trailers", "content-type": "application/grpc"}
    pairs |= {name.replace("_", "-"): value for name, value in fields.items()}
    return b"".join(b"\x00" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in pairs.items())


HEADERS, DATA, END_HEADERS, END_STREAM = 1, 0, 4, 1
OPEN = PREFACE + frame(HEADERS, END_HEADERS, 1, headers())


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        random.Random(2).randbytes(10_000),
        PREFACE[:10],
        PREFACE + frame(HEADERS, END_HEADERS, 1, headers())[:20],
        PREFACE + frame(HEADERS, END_HEADERS, 1, b"\xff" * 100),
        OPEN + frame(DATA, END_STREAM, 1, b"\x00\x00\x00\x00\x40abc"),
        OPEN + frame(DATA, END_STREAM, 1, b"\x00\xff\xff\xff\xff" + process(PID)),
        OPEN + frame(DATA, END_STREAM, 1, b"\x01" + struct.pack(">I", 4) + b"\xde\xad\xbe\xef"),
        OPEN + frame(DATA, END_STREAM, 1, b""),
        OPEN + frame(DATA, 0, 1, b"\x00\x00\x00\x00\x40abc"),
        PREFACE + frame(HEADERS, END_HEADERS, 1, headers(grpc_timeout="99999999999H")),
    ],
    ids=[
        "nothing", "http-1", "noise", "half-preface", "half-headers", "bad-hpack", "short-message", "4-gib-message", "bad-compression",
        "no-message", "left-open", "bad-timeout",
    ],
)  # fmt: skip
def test_connections_that_break_the_protocol(call: raw.Caller, agent: Agent, sent: bytes) -> None:
    """What the caller fixture then asserts is the point: everybody else is served."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(raw.PATIENCE)
        stream.connect(str(agent.path))
        heard = b""
        with contextlib.suppress(ConnectionError):  # the agent may hang up at any byte
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            while more := stream.recv(65536):
                heard += more
    assert b"Traceback" not in heard
    assert b"DecodeError" not in heard


def test_mutated_requests_never_kill_and_never_break_the_agent(call: raw.Caller) -> None:
    """3,000 mutations of a dry run, from a fixed seed. One that is no dry run any more is not sent."""
    rng = random.Random(20250101)
    allowed = {
        grpc.StatusCode.OK,
        INVALID,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
    }
    seen: dict[grpc.StatusCode, int] = dict.fromkeys(allowed, 0)
    with lab.live(lab.MIB) as victim:
        seed = (
            process(victim.pid, field(2, os.fstat(victim.pidfd).st_ino))
            + field(3, 2)
            + field(TIMEOUT, field(1, 5) + field(2, 500_000_000))
            + field(REAP_DELAY, field(2, 1_000_000))
            + field(6, "because")
            + VALIDATE_ONLY
        )
        sent = 0
        while sent < 3000:
            request = mutated(rng, seed)
            if not is_dry_run(request):
                continue
            sent += 1
            answer = call(KILL, request)
            assert answer.code in allowed, (request, answer)
            seen[answer.code] += 1
            if answer.code is grpc.StatusCode.OK:
                result = release_service_pb2.KillAndReleaseResponse.FromString(answer.body).result
                assert result.verdict == outcome_pb2.VERDICT_VALIDATED, (request, answer)
            else:
                assert len(answer.parts("ErrorInfo")) == 1, (request, answer)
                raw.assert_no_internals(answer)
        assert not victim.exited(0)
    assert seen[grpc.StatusCode.OK] > 50, seen
    assert seen[INVALID] > 500, seen


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A copy with one to four changes: a bit flipped, a byte changed, bytes cut out, repeated or put in, the end cut off."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.randint(1, 8))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                del out[at:end]
            case 3:
                out[at:at] = out[at:end]
            case 4:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case _:
                out = out[:at] if rng.random() < 0.2 else out
    # The last value of a field counts: most mutants are a dry run because of this one.
    return bytes(out) + VALIDATE_ONLY


def is_dry_run(request: bytes) -> bool:
    """Whether an agent that takes the request at all takes it as a dry run."""
    try:
        return release_service_pb2.KillAndReleaseRequest.FromString(request).validate_only
    except DecodeError:
        return True
