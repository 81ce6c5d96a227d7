"""What the guard refuses, in the contract's words."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from mrelease.v1 import error_reason_pb2
from mrelease_agent.guard.gate import Ask, Gate, Grant
from mrelease_agent.guard.refusals import AuditUnavailable, OverLimit, Refused
from mrelease_agent.rpc.errors import RpcError

_Reason = error_reason_pb2.ErrorReason
#: What tells of a target that it exists, or that it does not.
_TELLING = frozenset(
    {
        "INVALID_FIELD",
        "PROCESS_NOT_FOUND",
        "TARGET_NOT_FOUND",
        "TARGET_AMBIGUOUS",
        "IDENTITY_MISMATCH",
        "PROTECTED",
        "KERNEL_THREAD",
        "NOT_PERMITTED",
    }
)


@contextlib.contextmanager
def refusals(ask: Ask) -> Generator[None, None, None]:
    """Turn what the guard raises into an RpcError."""
    try:
        yield
    except Refused as refused:
        raise told_refusal(refused, ask) from None


def told_refusal(refused: Refused, ask: Ask) -> RpcError:
    """PERMISSION_DENIED, RESOURCE_EXHAUSTED or UNAVAILABLE."""
    if isinstance(refused, OverLimit):
        return RpcError(
            _Reason.ERROR_REASON_KILL_LIMIT,
            refused.message,
            refused.remedy,
            limit=refused.limit,
            scope=refused.scope,
        ).retry_after(refused.retry_after)
    if isinstance(refused, AuditUnavailable):
        return RpcError(_Reason.ERROR_REASON_AUDIT_UNAVAILABLE, refused.message, refused.remedy)
    return RpcError(
        _Reason.ERROR_REASON_CALLER_NOT_PERMITTED, refused.message, refused.remedy, caller=ask.caller.name[:256], method=ask.method
    )


@contextlib.contextmanager
def veiled(gate: Gate, ask: Ask, grant: Grant) -> Generator[None, None, None]:
    """Before it is known whether the target is the caller's to know of, every error about it becomes the one refusal.

    Who may do everything to everything is told what is wrong.
    """
    try:
        yield
    except RpcError as error:
        if grant.unrestricted or error.details.reason not in _TELLING:
            raise
        raise told_refusal(gate.refuse(ask), ask) from None
