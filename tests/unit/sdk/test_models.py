from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import datetime, timedelta, timezone
from typing import get_args

import pytest
from google.protobuf.message import Message

import mrelease
from mrelease import _calls
from mrelease.v1 import memory_pb2, node_service_pb2, release_service_pb2, result_pb2, target_pb2
from support.sdk_samples import GIB, full_message, kill_call, process_info, process_result, release_call, release_result

MIRRORED = [
    (result_pb2.ReleaseResult, mrelease.ReleaseResult),
    (result_pb2.ProcessResult, mrelease.ProcessResult),
    (result_pb2.Unreleased, mrelease.Unreleased),
    (result_pb2.NodeIdentity, mrelease.NodeRef),
    (memory_pb2.CgroupMemory, mrelease.CgroupMemory),
    (target_pb2.ProcessTarget, mrelease.Process),
    (target_pb2.ContainerTarget, mrelease.Container),
    (target_pb2.PodTarget, mrelease.Pod),
    (target_pb2.CgroupTarget, mrelease.Cgroup),
    (node_service_pb2.Node, mrelease.Node),
    (node_service_pb2.Capability, mrelease.Capability),
    (node_service_pb2.ProcessInfo, mrelease.ProcessInfo),
    (node_service_pb2.WatchMemoryResponse, mrelease.MemorySample),
    (node_service_pb2.WatchedCgroup, mrelease.WatchedCgroup),
    (node_service_pb2.PressureTrigger, mrelease.PressureTrigger),
    (memory_pb2.MemoryPressure, mrelease.MemoryPressure),
    (memory_pb2.PressureStall, mrelease.PressureStall),
]


@pytest.mark.parametrize(("message", "model"), MIRRORED, ids=lambda x: x.__name__)
def test_models_have_the_fields_of_their_messages(message: type[Message], model: type) -> None:
    assert [f.name for f in message.DESCRIPTOR.fields] == [f.name for f in dataclasses.fields(model)]


def test_no_field_of_an_answer_is_lost() -> None:
    message = full_message(release_service_pb2.KillAndReleaseResponse)
    result = kill_call().decode(message)
    (process,) = result.processes
    assert result.verdict is mrelease.Verdict(message.result.verdict)
    assert process.memory_before is not None
    assert process.memory_before.swap_bytes == message.result.processes[0].memory_before.swap_bytes
    assert process.kill_time == datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=timezone.utc)
    assert process.release_duration == timedelta(seconds=1, microseconds=250_000)
    assert process.cgroup is not None
    (group,), (charged,) = message.result.cgroups, message.result.unreleased
    assert result.cgroups == (mrelease.CgroupMemory(group.path, group.before_bytes, group.after_bytes),)
    assert result.unreleased == (mrelease.Unreleased(mrelease.UnreleasedCause(charged.cause), charged.size_bytes),)
    assert process.held_cause is mrelease.HeldCause(message.result.processes[0].held_cause)
    assert process.boost is mrelease.Boost(message.result.processes[0].boost)
    assert (process.tracer_pid, process.reader_pids) == (
        message.result.processes[0].tracer_pid,
        tuple(message.result.processes[0].reader_pids),
    )
    assert (result.request_id, result.replayed) == (message.result.request_id, True)
    # Numbers of the sample differ field by field, so that a swap of two fields shows.
    numbers = [v for v in dataclasses.asdict(process.memory_before).values() if isinstance(v, int)]
    assert len(set(numbers)) == len(numbers)


def test_what_is_absent_is_none() -> None:
    message = release_service_pb2.ReleaseResponse()
    message.result.processes.add()
    (process,) = release_call().decode(message).processes
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
    call = kill_call(
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


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (mrelease.Process(7, 9), target_pb2.Target(process=target_pb2.ProcessTarget(pid=7, pidfd_inode=9))),
        (mrelease.Process(1, container_id="ab"), target_pb2.Target(process=target_pb2.ProcessTarget(pid=1, container_id="ab"))),
        (mrelease.Container("ab"), target_pb2.Target(container=target_pb2.ContainerTarget(id="ab"))),
        (mrelease.Pod("u", ("a", "b")), target_pb2.Target(pod=target_pb2.PodTarget(uid="u", containers=["a", "b"]))),
        (mrelease.Cgroup("/a"), target_pb2.Target(cgroup=target_pb2.CgroupTarget(path="/a"))),
        # Nothing named is no target of another kind, and for a list not the whole node: the agent refuses it.
        (mrelease.Container(""), target_pb2.Target(container=target_pb2.ContainerTarget())),
        (mrelease.Pod(""), target_pb2.Target(pod=target_pb2.PodTarget())),
        (mrelease.Cgroup(""), target_pb2.Target(cgroup=target_pb2.CgroupTarget())),
    ],
    ids=str,
)
def test_every_kind_of_target_is_asked_for_as_what_it_is(target: mrelease.Target, message: target_pb2.Target) -> None:
    call = release_call(target)
    assert isinstance(call.request, release_service_pb2.ReleaseRequest)
    assert call.request.target == message
    if not isinstance(target, mrelease.Process):
        request = next(_calls.list_processes(None, None, target, 1)).request
        assert isinstance(request, node_service_pb2.ListProcessesRequest)
        assert request.within == message


def test_every_kind_of_target_of_the_contract_has_a_class() -> None:
    kinds = {field.name for field in target_pb2.Target.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert kinds == {kind.__name__.lower() for kind in get_args(mrelease.Target)}


def test_a_list_of_the_whole_node_names_no_group() -> None:
    assert not next(_calls.list_processes(None, None, None, 1)).request.HasField("within")


def test_the_containers_of_a_pod_are_no_text() -> None:
    with mrelease.Client("unix:///nowhere") as client, pytest.raises(TypeError, match="tuple of ids"):
        client.kill_and_release(mrelease.Pod("u", ""))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
def test_a_duration_that_is_none_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        mrelease.Client("unix:///nowhere", timeout=seconds)


def test_a_bare_number_is_no_target() -> None:
    with mrelease.Client("unix:///nowhere") as client, pytest.raises(TypeError, match=r"Process\(4711\)"):
        client.kill_and_release(4711)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with (
        mrelease.Client("unix:///nowhere") as client,
        pytest.raises(TypeError, match=r"Process, Container, Pod, Cgroup or Custom, not str$"),
    ):
        client.list_processes(within="/a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_models_are_values() -> None:
    process = mrelease.Process(1, 2, 3)
    assert process == mrelease.Process(1, 2, 3)
    assert len({process, mrelease.Process(1, 2, 3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        process.pid = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert len({mrelease.Pod("u", ("a",)), mrelease.Pod("u", ("a",)), mrelease.Container("u"), mrelease.Cgroup("u")}) == 3


def test_a_custom_target_is_a_value_whose_attributes_nobody_changes() -> None:
    given = {"step": "0", "job": "12"}
    target = mrelease.Custom("slurm", given)
    given["job"] = "13"
    assert target == mrelease.Custom("slurm", {"job": "12", "step": "0"})
    assert len({target, mrelease.Custom("slurm", {"job": "12", "step": "0"}), mrelease.Custom("slurm", {"job": "12"})}) == 2
    assert str(target) == "slurm job=12 step=0"
    assert pickle.loads(pickle.dumps(target)) == target
    assert copy.deepcopy(target) == target
    with pytest.raises(TypeError):
        target.attributes["job"] = "13"  # type: ignore[index]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(TypeError, match="are texts"):
        mrelease.Custom("slurm", {"job": 12})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    assert str(mrelease.Custom("x", {"a": "\u202e"})) == "x a=\\u202e"


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


def test_who_else_has_to_do_with_held_memory_is_named() -> None:
    held = process_result(
        outcome=mrelease.Outcome.HELD,
        cause="It is pinned.",
        state="D",
        sharing_pids=(5, 6),
        tracer_pid=7,
        reader_pids=tuple(range(10, 20)),
    )
    assert "  state D, shared with 5, 6, traced by 7, read by 10, 11, 12, 13, 14 and 5 more" in str(release_result(held)).splitlines()


def test_a_group_that_is_back_is_all_back_and_says_what_stays_charged() -> None:
    # Two processes that share what they had before fork(2): 2 GiB counted, 1.5 GiB there.
    stays = mrelease.Unreleased(mrelease.UnreleasedCause.SHMEM, 64 << 20)
    result = release_result(process_result(), process_result(4712), released_bytes=3 * GIB // 2, unreleased=(stays,))
    assert str(result).splitlines()[3:] == ["total: 1.50 of 1.50 GiB back from 2 processes", "64.0 MiB SHMEM stays charged"]


def test_what_many_have_in_common_is_said_once() -> None:
    def held(pid: int, cause: str) -> mrelease.ProcessResult:
        left = (mrelease.Unreleased(mrelease.UnreleasedCause.HELD, GIB),)
        return process_result(pid, outcome=mrelease.Outcome.HELD, cause=cause, remedy="Thaw it.", unreleased=left)

    processes = [*(held(pid, "It is frozen.") for pid in range(1, 8)), process_result(8), held(9, "It waits.")]
    result = release_result(*processes, verdict=mrelease.Verdict.PARTIAL)
    notes = [
        "1, 2, 3, 4, 5 and 2 more: It is frozen.",
        "  not released: 7.00 GiB HELD",
        "  Thaw it.",
        "9: It waits.",
        "  not released: 1.00 GiB HELD",
        "  Thaw it.",
    ]
    assert str(result).splitlines()[-6:] == notes
    assert str(mrelease.NotReleased(result)) == "; ".join(["the verdict is PARTIAL", *(line.strip() for line in notes)])


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
    assert "\x1b" not in str(process_info(command="\x1b[2J"))


def test_a_listed_process_carries_its_identity() -> None:
    info = process_info(process=mrelease.Process(5, 77, 3))
    assert info.target == mrelease.Process(5, 77, 3)
    assert str(info.target) == "5:77"


def test_a_pid_in_a_container_says_so() -> None:
    container_id = "0123456789abcdef" * 4
    assert str(mrelease.Process(17, container_id=container_id)) == "17 in container 0123456789ab"
    assert mrelease.Process(17, container_id=container_id) != mrelease.Process(17)
