"""What the exit code of ``mrelease`` says."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from mrelease import ReleaseResult, Verdict, errors
from mrelease._contexts import ContextError


class ExitCode(IntEnum):
    """The codes; 130 is an interruption by the user (128 + SIGINT)."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    HELD = 3
    REFUSED = 4
    NOT_FOUND = 5
    UNREACHABLE = 6
    INCAPABLE = 7
    UNMET = 8
    INTERRUPTED = 130


#: What each code means, for ``mrelease --help``.
MEANINGS: Final[dict[ExitCode, str]] = {
    ExitCode.OK: "all memory is back (RELEASED or EXITED); reclaim: the goal is met; with --dry-run: every check passed",
    ExitCode.INTERNAL: "a defect of mrelease or of the agent, or no valid answer",
    ExitCode.USAGE: "the command line or the request is not valid",
    ExitCode.HELD: "killed, but memory is not proven back, or it is not known whether it was killed; audit: the log is broken",
    ExitCode.REFUSED: "the agent does not kill or release this target; nothing was signalled",
    ExitCode.NOT_FOUND: "no such process, container, pod, cgroup or operation, another process has the pid now, or another node answers",
    ExitCode.UNREACHABLE: "no agent answers, or it has no capacity now; nothing was signalled",
    ExitCode.INCAPABLE: "doctor: something that mrelease needs does not work on this node; plugins: one is broken",
    ExitCode.UNMET: "reclaim: the goal is not met and no candidate is left; what was killed is proven back",
    ExitCode.INTERRUPTED: "interrupted",
}

#: With several targets the code is the first of these that one of them has.
WORST_FIRST: Final = (
    ExitCode.INTERNAL,
    ExitCode.HELD,
    ExitCode.UNREACHABLE,
    ExitCode.REFUSED,
    ExitCode.NOT_FOUND,
    ExitCode.USAGE,
    ExitCode.OK,
)

# The first class that fits decides.
_BY_ERROR: Final[tuple[tuple[type[errors.MreleaseError], ExitCode], ...]] = (
    (errors.InvalidAddress, ExitCode.USAGE),
    (errors.InvalidTLS, ExitCode.USAGE),
    (ContextError, ExitCode.USAGE),
    (errors.NotReleased, ExitCode.HELD),
    (errors.InvalidReference, ExitCode.USAGE),
    (errors.ReferenceAmbiguous, ExitCode.USAGE),
    (errors.InvalidInventory, ExitCode.USAGE),
    (errors.MissingExtra, ExitCode.USAGE),
    (errors.PluginFailed, ExitCode.INTERNAL),
    (errors.OrchestratorDenied, ExitCode.REFUSED),
    (errors.NoAgent, ExitCode.UNREACHABLE),
    (errors.OrchestratorUnavailable, ExitCode.UNREACHABLE),
    (errors.ResolutionError, ExitCode.NOT_FOUND),
    (errors.InternalError, ExitCode.INTERNAL),
    (errors.UnexpectedStatus, ExitCode.INTERNAL),
    (errors.FeatureUnavailable, ExitCode.REFUSED),
    (errors.TargetKindUnavailable, ExitCode.REFUSED),
    (errors.InvalidRequest, ExitCode.USAGE),
    (errors.WrongTarget, ExitCode.NOT_FOUND),
    (errors.Refused, ExitCode.REFUSED),
    (errors.Denied, ExitCode.REFUSED),
    (errors.Unavailable, ExitCode.UNREACHABLE),
    # Where something may have been killed it is HELD.
    (errors.OutcomeUnknown, ExitCode.UNREACHABLE),
)


def of_error(error: errors.MreleaseError) -> ExitCode:
    """The code of an error."""
    code = next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.INTERNAL)
    if isinstance(error, errors.AgentError) and not error.nothing_signalled and code is not ExitCode.INTERNAL:
        # Also of what refuses a whole call, where it ends a reclaim that had begun.
        return ExitCode.HELD
    return code


def of_result(result: ReleaseResult) -> ExitCode:
    """The code of a result."""
    return ExitCode.OK if result.is_released or result.verdict is Verdict.VALIDATED else ExitCode.HELD


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The code of several targets."""
    return min(codes, key=WORST_FIRST.index, default=ExitCode.OK)
