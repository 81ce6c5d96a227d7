from __future__ import annotations

import copy
import pickle
from datetime import timedelta

import grpc
import pytest

from mrelease import _address, _failure, _status, errors
from mrelease.v1.error_reason_pb2 import ErrorReason

ADDRESS = _address.parse("127.0.0.1:7443")
REASONS = [name.removeprefix("ERROR_REASON_") for name, number in ErrorReason.items() if number]


def failure(code: grpc.StatusCode, details: _status.ErrorDetails | None = None, message: str = "what happened") -> _failure.Failure:
    trailers = [] if details is None else [(_status.TRAILER, _status.encode(code, message, details))]
    return _failure.Failure(code, message, trailers)


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_class_of_its_own_that_says_what_to_do(reason: str) -> None:
    metadata = {"remedy": "do this", "pid": "7"}
    error = _failure.to_error(failure(grpc.StatusCode.FAILED_PRECONDITION, _status.ErrorDetails(reason, metadata)), ADDRESS, signals=True)
    assert type(error) is _failure.BY_REASON[reason]
    assert type(error).__name__.upper() == reason.replace("_", "") + ("ERROR" if reason == "INTERNAL" else "")
    assert (error.reason, error.metadata, str(error)) == (reason, metadata, "what happened (do this)")
    assert error.nothing_signalled is (reason != "INTERNAL")


def test_reasons_do_not_share_classes() -> None:
    assert set(_failure.BY_REASON) == set(REASONS)
    assert len(set(_failure.BY_REASON.values())) == len(REASONS)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda c: c.name)
def test_every_status_without_details_has_a_class_and_a_remedy(code: grpc.StatusCode) -> None:
    error = _failure.to_error(failure(code), ADDRESS, signals=True)
    assert type(error) is _failure.BY_CODE[code]
    assert (error.code, error.reason, error.metadata, error.retry_after) == (code, "", {}, None)
    assert error.remedy
    assert error.remedy in str(error)
    assert error.nothing_signalled is not isinstance(error, errors.OutcomeUnknown)


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda c: c.name)
def test_a_call_that_signals_nothing_never_leaves_open_whether_it_did(code: grpc.StatusCode) -> None:
    error = _failure.to_error(failure(code), ADDRESS, signals=False)
    assert error.nothing_signalled
    assert "not known" not in str(error)


def test_retry_after_is_a_duration() -> None:
    details = _status.ErrorDetails("REAPERS_EXHAUSTED", {}, retry_after=1.5)
    error = _failure.to_error(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, details), ADDRESS, signals=True)
    assert error.retry_after == timedelta(seconds=1.5)
    assert isinstance(error, errors.Unavailable)


def test_an_ambiguous_target_is_not_taken_for_one_that_is_gone() -> None:
    assert issubclass(errors.TargetNotFound, errors.WrongTarget)
    assert not issubclass(errors.TargetAmbiguous, errors.WrongTarget)


def test_a_reason_of_a_newer_agent_is_an_agent_error() -> None:
    details = _status.ErrorDetails("TOMORROW", {"remedy": "update"})
    error = _failure.to_error(failure(grpc.StatusCode.FAILED_PRECONDITION, details), ADDRESS, signals=True)
    assert type(error) is errors.AgentError
    assert str(error) == "what happened (update)"


def test_details_of_another_domain_are_not_an_agents() -> None:
    details = _status.ErrorDetails("PROTECTED", {}, domain="example.org")
    error = _failure.to_error(failure(grpc.StatusCode.UNAVAILABLE, details), ADDRESS, signals=True)
    assert type(error) is errors.ConnectionLost


def test_details_that_cannot_be_read_are_as_none() -> None:
    broken = _failure.Failure(grpc.StatusCode.UNAUTHENTICATED, "no", [(_status.TRAILER, b"\xff\xff\xff")])
    assert type(_failure.to_error(broken, ADDRESS, signals=True)) is errors.Unauthenticated


def test_errors_travel_between_processes() -> None:
    details = _status.ErrorDetails("PROTECTED", {"pid": "1", "rule": "init"}, retry_after=2)
    error = _failure.to_error(failure(grpc.StatusCode.PERMISSION_DENIED, details), ADDRESS, signals=True)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is errors.Protected
        assert vars(other) == vars(error)
        assert str(other) == str(error)
