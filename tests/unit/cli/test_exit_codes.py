from __future__ import annotations

import grpc
import pytest

import mrelease
from mrelease import errors
from mrelease.cli import exit_codes
from mrelease.cli.exit_codes import ExitCode
from support.sdk_samples import release_result

KINDS = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.AgentError)]

EXPECTED: dict[type[errors.AgentError], int] = {
    errors.InvalidField: 2,
    errors.FeatureUnavailable: 4,
    errors.TargetKindUnavailable: 4,
    errors.TargetAmbiguous: 2,
    errors.UnknownMethod: 2,
    errors.RequestIdReused: 2,
    errors.ProcessNotFound: 5,
    errors.TargetNotFound: 5,
    errors.OperationNotFound: 5,
    errors.IdentityMismatch: 5,
    errors.NodeMismatch: 5,
    errors.Protected: 4,
    errors.KernelThread: 4,
    errors.NotPermitted: 4,
    errors.NotDying: 4,
    errors.CertificateRejected: 4,
    errors.CallerNotPermitted: 4,
    errors.Unreachable: 6,
    errors.ShuttingDown: 6,
    errors.ReapersExhausted: 6,
    errors.AgentLimit: 6,
    errors.KillLimit: 6,
    errors.AuditUnavailable: 6,
    errors.DeadlineExceeded: 3,
    errors.ConnectionLost: 3,
    errors.Cancelled: 3,
    errors.AnswerTooLarge: 3,
    errors.InternalError: 1,
    errors.UnexpectedStatus: 1,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_error_has_its_exit_code(kind: type[errors.AgentError]) -> None:
    leaf = not kind.__subclasses__()
    code = exit_codes.of_error(kind("x", code=grpc.StatusCode.UNKNOWN))
    assert code == EXPECTED[kind] if leaf else code in ExitCode


def test_what_may_have_killed_never_looks_like_what_did_not() -> None:
    for kind in KINDS:
        error = kind("x", code=grpc.StatusCode.UNKNOWN)
        if not error.nothing_signalled:
            assert exit_codes.of_error(error) in (ExitCode.HELD, ExitCode.INTERNAL)


@pytest.mark.parametrize("kind", [errors.ShuttingDown, errors.AgentLimit, errors.NodeMismatch, errors.InvalidField])
def test_what_refuses_says_nothing_of_a_reclaim_that_had_begun(kind: type[errors.AgentError]) -> None:
    error = kind("x", code=grpc.StatusCode.UNKNOWN, nothing_signalled=False)
    assert exit_codes.of_error(error) is ExitCode.HELD


def test_a_read_without_an_answer_is_unreachable() -> None:
    error = errors.DeadlineExceeded("x", code=grpc.StatusCode.DEADLINE_EXCEEDED, nothing_signalled=True)
    assert exit_codes.of_error(error) == ExitCode.UNREACHABLE


@pytest.mark.parametrize("verdict", list(mrelease.Verdict))
def test_every_verdict_has_its_exit_code(verdict: mrelease.Verdict) -> None:
    good = verdict.name in ("RELEASED", "EXITED", "VALIDATED")
    assert exit_codes.of_result(release_result(verdict=verdict)) == (ExitCode.OK if good else ExitCode.HELD)


def test_the_worst_of_several_decides() -> None:
    assert exit_codes.worst([]) == 0
    assert exit_codes.worst([ExitCode.OK, ExitCode.NOT_FOUND, ExitCode.REFUSED]) == ExitCode.REFUSED
    assert exit_codes.worst([ExitCode.REFUSED, ExitCode.HELD, ExitCode.UNREACHABLE]) == ExitCode.HELD
    assert exit_codes.worst(exit_codes.WORST_FIRST) == ExitCode.INTERNAL


def test_every_code_has_a_meaning() -> None:
    assert set(exit_codes.MEANINGS) == set(ExitCode)
    assert set(exit_codes.WORST_FIRST) == set(ExitCode) - {ExitCode.INCAPABLE, ExitCode.UNMET, ExitCode.INTERRUPTED}
