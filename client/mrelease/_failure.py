"""From a failed gRPC call to the exception that says what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import grpc
from google.protobuf.message import Message

from mrelease import _skew, _status, errors
from mrelease._address import Address, why_unreachable

#: One class for every ``ErrorReason`` of the contract.
BY_REASON: Final[dict[str, type[errors.AgentError]]] = {
    "INVALID_FIELD": errors.InvalidField,
    "NODE_MISMATCH": errors.NodeMismatch,
    "PROCESS_NOT_FOUND": errors.ProcessNotFound,
    "IDENTITY_MISMATCH": errors.IdentityMismatch,
    "PROTECTED": errors.Protected,
    "KERNEL_THREAD": errors.KernelThread,
    "NOT_PERMITTED": errors.NotPermitted,
    "NOT_DYING": errors.NotDying,
    "FEATURE_UNAVAILABLE": errors.FeatureUnavailable,
    "TARGET_KIND_UNAVAILABLE": errors.TargetKindUnavailable,
    "REAPERS_EXHAUSTED": errors.ReapersExhausted,
    "AGENT_LIMIT": errors.AgentLimit,
    "CALLER_NOT_PERMITTED": errors.CallerNotPermitted,
    "KILL_LIMIT": errors.KillLimit,
    "AUDIT_UNAVAILABLE": errors.AuditUnavailable,
    "CERTIFICATE_REJECTED": errors.CertificateRejected,
    "SHUTTING_DOWN": errors.ShuttingDown,
    "INTERNAL": errors.InternalError,
    "UNKNOWN_METHOD": errors.UnknownMethod,
    "TARGET_NOT_FOUND": errors.TargetNotFound,
    "TARGET_AMBIGUOUS": errors.TargetAmbiguous,
    "OPERATION_NOT_FOUND": errors.OperationNotFound,
    "REQUEST_ID_REUSED": errors.RequestIdReused,
}

#: One class for every status without details of an agent.
BY_CODE: Final[dict[grpc.StatusCode, type[errors.AgentError]]] = {
    grpc.StatusCode.OK: errors.UnexpectedStatus,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNKNOWN: errors.UnexpectedStatus,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: errors.WrongTarget,
    grpc.StatusCode.ALREADY_EXISTS: errors.UnexpectedStatus,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.AnswerTooLarge,
    grpc.StatusCode.FAILED_PRECONDITION: errors.Refused,
    grpc.StatusCode.ABORTED: errors.UnexpectedStatus,
    grpc.StatusCode.OUT_OF_RANGE: errors.UnexpectedStatus,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnknownMethod,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNAVAILABLE: errors.ConnectionLost,
    grpc.StatusCode.DATA_LOSS: errors.UnexpectedStatus,
}

# What gRPC core says where it never had a connection; any other UNAVAILABLE may have come after the request was sent.
_NEVER_CONNECTED = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed", "empty address list")


@dataclass(frozen=True, slots=True)
class Failure:
    """What gRPC says of a failed call; ``trailers`` as the client gives them."""

    code: grpc.StatusCode
    message: str
    trailers: Sequence[tuple[str, str | bytes]] | None


def to_error(
    failure: Failure, address: Address, *, signals: bool, streamed: bool = False, request: Message | None = None
) -> errors.AgentError:
    """Make the exception; ``signals``: the call may have killed something; ``streamed``: part of its answer has come."""
    details = _status.decode(failure.trailers)
    if details is None or details.domain != _status.DOMAIN:
        return _without_details(failure, address, signals, streamed)
    kind = BY_REASON.get(details.reason, errors.AgentError)
    return kind(
        _skew.named(failure.message, details.metadata.get("field", ""), request),
        code=failure.code,
        reason=details.reason,
        metadata=details.metadata,
        remedy=details.metadata.get("remedy", ""),
        retry_after=None if details.retry_after is None else timedelta(seconds=details.retry_after),
        # Of a reason that a newer agent has it is not known.
        nothing_signalled=(kind.is_harmless and details.reason in BY_REASON) or not signals,
    )


def _without_details(failure: Failure, address: Address, signals: bool, streamed: bool) -> errors.AgentError:
    kind = BY_CODE.get(failure.code, errors.UnexpectedStatus)
    message, remedy = failure.message or f"the call failed with {failure.code.name}", ""
    if failure.code is grpc.StatusCode.UNAVAILABLE and any(known in failure.message for known in _NEVER_CONNECTED):
        kind = errors.Unreachable
        message, remedy = why_unreachable(address, failure.message)
    elif failure.code is grpc.StatusCode.UNAVAILABLE:
        message = f"the connection to {address.text} was lost: {failure.message}"
    elif failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"the deadline ended the stream from {address.text}" if streamed else f"no answer from {address.text} by the deadline"
    if not remedy and not signals and issubclass(kind, errors.OutcomeUnknown):
        remedy = "the call signals nothing: make it again"
    return kind(message, code=failure.code, remedy=remedy, nothing_signalled=kind.is_harmless or not signals)
