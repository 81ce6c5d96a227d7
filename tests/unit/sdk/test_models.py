from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

import pytest
from google.protobuf.message import Message

import mrelease
from mrelease import _codec, _models
from mrelease.v1 import node_service_pb2, release_service_pb2, result_pb2
from support.sdk_samples import GIB, full_message, process_result, release_result

MIRRORED = [
    (result_pb2.ReleaseResult, mrelease.ReleaseResult),
    (result_pb2.ProcessResult, mrelease.ProcessResult),
    (result_pb2.Unreleased, mrelease.Unreleased),
    (result_pb2.NodeIdentity, mrelease.NodeRef),
    (node_service_pb2.Node, mrelease.Node),
    (node_service_pb2.Capability, mrelease.Capability),
    (node_service_pb2.ProcessInfo, mrelease.ProcessInfo),
]


@pytest.mark.parametrize(("message", "model"), MIRRORED, ids=lambda x: x.__name__)
def test_models_have_the_fields_of_their_messages(message: type[Message], model: type) -> None:
    assert [f.name for f in message.DESCRIPTOR.fields] == [f.name for f in dataclasses.fields(model)]


def test_no_field_of_an_answer_is_lost() -> None:
    message = full_message(release_service_pb2.KillAndReleaseResponse)
    call = _codec.kill_and_release(
        mrelease.Process(1), node=None, wait=mrelease.Wait.RELEASED, timeout=1, reap_delay=None, reason="", validate_only=False
    )
    result = call.decode(message)
    (process,) = result.processes
    assert result.verdict is mrelease.Verdict(message.result.verdict)
    assert process.memory_before is not None
    assert process.memory_before.swap_bytes == message.result.processes[0].memory_before.swap_bytes
    assert process.kill_time == datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)
    assert process.release_duration == timedelta(seconds=1, microseconds=250_000)
    assert process.cgroup is not None
    # Numbers of the sample differ field by field, so that a swap of two fields shows.
    numbers = [v for v in dataclasses.asdict(process.memory_before).values() if isinstance(v, int)]
    assert len(set(numbers)) == len(numbers)


def test_what_is_absent_is_none() -> None:
    message = release_service_pb2.ReleaseResponse()
    message.result.processes.add()
    call = _codec.release(mrelease.Process(1), node=None, wait=mrelease.Wait.RELEASED, timeout=1, reason="", validate_only=False)
    (process,) = call.decode(message).processes
    assert process.process == mrelease.Process(0, None, None)
    absent = (
        process.memory_before,
        process.memory_after,
        process.kill_time,
        process.release_duration,
        process.exit_duration,
        process.cgroup,
    )
    assert absent == (None, None, None, None, None, None)


def test_a_request_says_what_was_asked() -> None:
    call = _codec.kill_and_release(
        mrelease.Process(4711, pidfd_inode=99, start_time_ticks=7),
        node=mrelease.NodeRef("n7", "boot"),
        wait=mrelease.Wait.EXITED,
        timeout=timedelta(milliseconds=1500),
        reap_delay=0.004,
        reason="preempted",
        validate_only=True,
    )
    request = call.request
    assert isinstance(request, release_service_pb2.KillAndReleaseRequest)
    assert (request.target.process.pid, request.target.process.pidfd_inode, request.target.process.start_time_ticks) == (4711, 99, 7)
    assert (request.node.name, request.node.boot_id) == ("n7", "boot")
    assert (request.wait, request.timeout.ToMilliseconds(), request.reap_delay.ToMicroseconds()) == (2, 1500, 4000)
    assert (request.reason, request.validate_only) == ("preempted", True)
    assert call.deadline == 6.5


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
def test_a_duration_that_is_none_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        mrelease.Client("unix:///nowhere", timeout=seconds)


def test_a_bare_number_is_no_target() -> None:
    with mrelease.Client("unix:///nowhere") as client, pytest.raises(TypeError, match=r"Process\(4711\)"):
        client.kill_and_release(4711)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_models_are_values() -> None:
    process = mrelease.Process(1, 2, 3)
    assert process == mrelease.Process(1, 2, 3)
    assert len({process, mrelease.Process(1, 2, 3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        process.pid = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert mrelease.Target is mrelease.Process


def test_reclaimable_is_what_the_death_gives_back() -> None:
    assert mrelease.ProcessMemory(anon_bytes=5, swap_bytes=3, shmem_bytes=100, file_bytes=100).reclaimable_bytes == 8


def test_a_result_prints_as_the_table() -> None:
    assert str(release_result()).splitlines() == [
        " PID  COMMAND  VERDICT           RELEASED  BACK IN  EXITED IN",
        "4711  trainer  RELEASED  1.00 of 1.00 GiB    13 ms      90 ms",
    ]
    assert str(process_result()) == "4711 trainer RELEASED 1.00 of 1.00 GiB, back in 13 ms, exited in 90 ms"


def test_a_result_of_several_has_a_total_and_says_what_to_do_about_what_is_held() -> None:
    held = process_result(
        pid=4712,
        outcome=mrelease.Outcome.HELD,
        released_bytes=0,
        release_duration=None,
        exit_duration=None,
        state="D",
        wchan="fuse_wait",
        cause="It waits in the kernel.",
        remedy="Restart the FUSE server.",
        unreleased=(mrelease.Unreleased(mrelease.UnreleasedCause.HELD, GIB),),
    )
    result = release_result(process_result(), held, verdict=mrelease.Verdict.PARTIAL)
    assert str(result).splitlines() == [
        " PID  COMMAND  VERDICT           RELEASED  BACK IN  EXITED IN",
        "4711  trainer  RELEASED  1.00 of 1.00 GiB    13 ms      90 ms",
        "4712  trainer  HELD      0.00 of 1.00 GiB        -          -",
        "total: 1.00 of 2.00 GiB back from 2 processes",
        "4712: It waits in the kernel.",
        "  state D, waits in fuse_wait",
        "  not released: 1.00 GiB HELD",
        "  Restart the FUSE server.",
    ]
    with pytest.raises(mrelease.NotReleased) as caught:
        result.raise_unless_released()
    assert caught.value.result is result
    assert "the verdict is PARTIAL" in str(caught.value)
    assert "Restart the FUSE server." in str(caught.value)


@pytest.mark.parametrize("verdict", list(mrelease.Verdict))
def test_what_is_not_back_raises(verdict: mrelease.Verdict) -> None:
    result = release_result(verdict=verdict)
    back = verdict in (mrelease.Verdict.RELEASED, mrelease.Verdict.EXITED)
    assert result.is_released is back
    if back or verdict is mrelease.Verdict.VALIDATED:
        result.raise_unless_released()
    else:
        with pytest.raises(mrelease.NotReleased):
            result.raise_unless_released()


def test_a_hostile_name_does_not_reach_the_terminal() -> None:
    process = process_result(command="\x1b[2Jx\n")
    for text in (str(process), str(release_result(process))):
        assert "\x1b" not in text
    info = _models.ProcessInfo(mrelease.Process(1), "\x1b[2J", 0, "S", 1, mrelease.ProcessMemory(), 0, "", "")
    assert "\x1b" not in str(info)


def test_a_listed_process_carries_its_identity() -> None:
    info = _models.ProcessInfo(mrelease.Process(5, 77, 3), "x", 0, "S", 1, mrelease.ProcessMemory(), 0, "/a", "")
    assert info.target == mrelease.Process(5, 77, 3)
    assert str(info.target) == "5:77"
