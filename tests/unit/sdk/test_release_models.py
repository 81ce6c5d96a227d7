"""What the streams of ReleaseService give, and what a Reclaim asks."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.message import Message

import mrelease
from mrelease import _calls
from mrelease.v1 import error_reason_pb2, outcome_pb2, release_service_pb2, result_pb2
from support.sdk_samples import GIB, full_message, release_result

MIRRORED = [
    (release_service_pb2.ReleaseProgress, mrelease.ReleaseProgress),
    (release_service_pb2.ReclaimStarted, mrelease.ReclaimStarted),
    (release_service_pb2.ReclaimedCandidate, mrelease.ReclaimedCandidate),
    (release_service_pb2.ReclaimSummary, mrelease.ReclaimSummary),
    (release_service_pb2.PassedOver, mrelease.PassedOver),
]

WATCH = _calls.watch_release("job-1", 0.5, None)


def reclaim_call(*candidates: mrelease.Target, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "released_bytes": None,
        "available_bytes": None,
        "pressure_below": None,
        "node": None,
        "timeout": 1,
        "reap_delay": None,
        "grace_period": 0,
        "signal": "",
        "boost": mrelease.Boost.UNSPECIFIED,
        "reason": "",
        "validate_only": False,
        "deadline": None,
    }
    return _calls.reclaim(candidates, **(fields | changes))


@pytest.mark.parametrize(("message", "model"), MIRRORED, ids=lambda x: x.__name__)
def test_models_have_the_fields_of_their_messages(message: type[Message], model: type) -> None:
    assert [f.name for f in message.DESCRIPTOR.fields] == [f.name for f in dataclasses.fields(model)]


def test_a_pressure_goal_has_the_fields_of_its_message() -> None:
    # In another order: what has no default comes first.
    names = {f.name for f in dataclasses.fields(mrelease.PressureGoal)}
    assert names == {f.name for f in release_service_pb2.PressureGoal.DESCRIPTOR.fields}


def test_watching_gives_progress_and_then_the_result() -> None:
    message = release_service_pb2.WatchReleaseResponse(progress=full_message(release_service_pb2.ReleaseProgress))
    progress = WATCH.decode(message)
    assert isinstance(progress, mrelease.ReleaseProgress)
    assert [getattr(progress, name) for name in ("before_bytes", "held_bytes", "processes", "processes_done")] == [1, 2, 3, 4]
    assert progress.elapsed_duration == timedelta(seconds=1.25)
    ended = result_pb2.ReleaseResult(verdict=outcome_pb2.VERDICT_HELD, request_id="job-1")
    result = WATCH.decode(release_service_pb2.WatchReleaseResponse(result=ended))
    assert isinstance(result, mrelease.ReleaseResult)
    assert (result.verdict, result.request_id) == (mrelease.Verdict.HELD, "job-1")


def test_a_reclaim_gives_its_three_kinds_of_events() -> None:
    response = release_service_pb2.ReclaimResponse
    decode = reclaim_call(released_bytes=1).decode
    assert decode(response(started=release_service_pb2.ReclaimStarted(index=3, missing=-7))) == mrelease.ReclaimStarted(3, -7)
    over = release_service_pb2.PassedOver(reason=error_reason_pb2.ERROR_REASON_PROTECTED, message="m", remedy="r")
    told = decode(response(candidate=release_service_pb2.ReclaimedCandidate(index=4, passed_over=over)))
    assert told == mrelease.ReclaimedCandidate(4, None, mrelease.PassedOver("PROTECTED", "m", "r"))
    killed = release_service_pb2.ReclaimedCandidate(index=5, result=result_pb2.ReleaseResult(released_bytes=GIB))
    told = decode(response(candidate=killed))
    assert (told.index, told.result.released_bytes, told.passed_over) == (5, GIB, None)
    summary = decode(response(summary=full_message(release_service_pb2.ReclaimSummary)))
    assert (summary.goal_met, summary.released_bytes, summary.candidates_killed, summary.candidates_passed_over) == (True, 2, 3, 4)
    assert summary.node_memory_before != summary.node_memory_after
    assert summary.node.name.startswith("name")
    assert decode(response(summary=release_service_pb2.ReclaimSummary())).node_memory_after is None


def test_a_reason_of_a_newer_agent_does_not_end_the_stream() -> None:
    candidate = release_service_pb2.ReclaimedCandidate()
    candidate.passed_over.ParseFromString(b"\x08\x61")
    told = reclaim_call(released_bytes=1).decode(release_service_pb2.ReclaimResponse(candidate=candidate))
    assert told.passed_over.reason == "UNKNOWN_97"


def test_a_reclaim_asks_what_its_arguments_say() -> None:
    request = reclaim_call(
        mrelease.Process(7, 9),
        mrelease.Cgroup("/a"),
        pressure_below=mrelease.PressureGoal(12.5, mrelease.PressureKind.FULL, timedelta(milliseconds=500)),
        node=mrelease.NodeRef("n7"),
        timeout=timedelta(seconds=2),
        reap_delay=0,
        grace_period=3,
        signal="SIGINT",
        boost=mrelease.Boost.NONE,
        reason="why",
        validate_only=True,
    ).request
    assert [candidate.WhichOneof("kind") for candidate in request.candidates] == ["process", "cgroup"]
    goal = request.goal.pressure_below
    assert (goal.kind, goal.percent, goal.window.ToMilliseconds()) == (2, 12.5, 500)
    assert (request.timeout.seconds, request.HasField("reap_delay"), request.grace_period.seconds) == (2, True, 3)
    assert (request.signal, request.boost, request.reason, request.validate_only) == ("SIGINT", 1, "why", True)
    assert request.node.name == "n7"


@pytest.mark.parametrize("goals", [{}, {"released_bytes": 1, "available_bytes": 1}, {"released_bytes": 0, "available_bytes": 0}])
def test_a_reclaim_has_one_goal(goals: dict[str, Any]) -> None:
    with mrelease.Client("unix:///nowhere") as client, pytest.raises(ValueError, match="exactly one goal"):
        client.reclaim([mrelease.Process(1)], **goals)


def test_only_a_reclaim_that_signals_may_have_killed() -> None:
    assert reclaim_call(released_bytes=1).signals
    assert not reclaim_call(released_bytes=1, validate_only=True).signals
    assert not WATCH.signals


def test_they_print_as_a_line() -> None:
    assert str(mrelease.ReleaseProgress(GIB, GIB // 4, 2, 1, timedelta(seconds=1.5))) == "0.25 of 1.00 GiB held after 1.50 s"
    assert str(mrelease.PassedOver("PROTECTED", "process 1 is protected", "choose another")) == "process 1 is protected"
    met = mrelease.ReclaimSummary(True, GIB, 2, 1, None, None, mrelease.NodeRef())
    assert str(met) == "goal met: 1.00 GiB back from 2 candidates"
    assert str(dataclasses.replace(met, goal_met=False)).startswith("goal not met: ")


def test_a_dry_run_prints_what_would_come_back_and_what_would_stay() -> None:
    (process,) = release_result().processes
    memory = mrelease.ProcessMemory(anon_bytes=GIB, swap_bytes=GIB, shmem_bytes=64 << 20)
    would = dataclasses.replace(process, outcome=mrelease.Outcome.VALIDATED, memory_before=memory, released_bytes=0)
    result = release_result(would, verdict=mrelease.Verdict.VALIDATED)
    assert str(result).splitlines() == [
        " PID  COMMAND  VERDICT    RECLAIMABLE     SHMEM",
        "4711  trainer  VALIDATED     2.00 GiB  64.0 MiB",
    ]
    several = release_result(would, dataclasses.replace(would, memory_before=None), verdict=mrelease.Verdict.VALIDATED)
    assert str(several).splitlines()[-1] == "total: up to 2.00 GiB would come back from 2 processes"
