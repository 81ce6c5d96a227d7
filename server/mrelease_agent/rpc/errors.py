"""Errors that stop a whole request, and how they reach the caller: a gRPC status with exactly one google.rpc.ErrorInfo."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Mapping
from typing import Final

import grpc

from mrelease import _status
from mrelease.v1 import error_reason_pb2

_Reason = error_reason_pb2.ErrorReason
_INVALID, _PRECONDITION, _DENIED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
)
_EXHAUSTED, _UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE

#: Status code of each reason: the contract's error_reason.proto says the same in words, and a test compares them.
CODES: Mapping[error_reason_pb2.ErrorReason.ValueType, grpc.StatusCode] = {
    _Reason.ERROR_REASON_INVALID_FIELD: _INVALID,
    _Reason.ERROR_REASON_NODE_MISMATCH: _PRECONDITION,
    _Reason.ERROR_REASON_PROCESS_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    _Reason.ERROR_REASON_IDENTITY_MISMATCH: _PRECONDITION,
    _Reason.ERROR_REASON_PROTECTED: _DENIED,
    _Reason.ERROR_REASON_KERNEL_THREAD: _PRECONDITION,
    _Reason.ERROR_REASON_NOT_PERMITTED: _DENIED,
    _Reason.ERROR_REASON_NOT_DYING: _PRECONDITION,
    _Reason.ERROR_REASON_FEATURE_UNAVAILABLE: _PRECONDITION,
    _Reason.ERROR_REASON_REAPERS_EXHAUSTED: _EXHAUSTED,
    _Reason.ERROR_REASON_AGENT_LIMIT: _EXHAUSTED,
    _Reason.ERROR_REASON_SHUTTING_DOWN: _UNAVAILABLE,
    _Reason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    _Reason.ERROR_REASON_UNKNOWN_METHOD: grpc.StatusCode.UNIMPLEMENTED,
    _Reason.ERROR_REASON_TARGET_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    _Reason.ERROR_REASON_TARGET_AMBIGUOUS: _PRECONDITION,
    _Reason.ERROR_REASON_OPERATION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    _Reason.ERROR_REASON_REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    _Reason.ERROR_REASON_CALLER_NOT_PERMITTED: _DENIED,
    _Reason.ERROR_REASON_KILL_LIMIT: _EXHAUSTED,
    _Reason.ERROR_REASON_AUDIT_UNAVAILABLE: _UNAVAILABLE,
    _Reason.ERROR_REASON_CERTIFICATE_REJECTED: grpc.StatusCode.UNAUTHENTICATED,
    _Reason.ERROR_REASON_TARGET_KIND_UNAVAILABLE: _PRECONDITION,
}
#: Remedy of what the agent does not know because its caller is newer.
OLDER: Final = "upgrade the agent, or use a client of its version"
#: Seconds after which a caller is invited to try again, google.rpc.RetryInfo.
_RETRY_AFTER: Mapping[error_reason_pb2.ErrorReason.ValueType, float] = {
    _Reason.ERROR_REASON_REAPERS_EXHAUSTED: 5.0,
    _Reason.ERROR_REASON_AGENT_LIMIT: 1.0,
    _Reason.ERROR_REASON_SHUTTING_DOWN: 2.0,
    _Reason.ERROR_REASON_KILL_LIMIT: 60.0,
    _Reason.ERROR_REASON_AUDIT_UNAVAILABLE: 10.0,
}


class RpcError(Exception):
    """A request that is answered with an error; ``message`` and ``metadata`` are written for the caller to read."""

    def __init__(self, reason: error_reason_pb2.ErrorReason.ValueType, message: str, remedy: str, **metadata: str | int) -> None:
        super().__init__(message)
        self.code = CODES[reason]
        self.message = f"{message}: {remedy}" if remedy else message
        self.details = _status.ErrorDetails(
            reason=_status.reason_name(reason),
            metadata={"remedy": remedy, **{key: str(value) for key, value in metadata.items()}},
            retry_after=_RETRY_AFTER.get(reason),
        )

    def retry_after(self, seconds: float | None) -> RpcError:
        """Invite a retry after so many seconds (None: invite none) instead of the reason's usual ones; returns the error itself."""
        self.details = dataclasses.replace(self.details, retry_after=seconds)
        return self

    def trailers(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata with the serialized google.rpc.Status."""
        return ((_status.TRAILER, _status.encode(self.code, self.message, self.details)),)


def invalid(field: str, problem: str, remedy: str) -> RpcError:
    """INVALID_ARGUMENT that names ``field`` by its path in the request."""
    return RpcError(_Reason.ERROR_REASON_INVALID_FIELD, f"{field} {problem}", remedy, field=field)


def limit(error: OSError) -> RpcError:
    """RESOURCE_EXHAUSTED for a system call that failed before anything was signalled: EMFILE, ENFILE, ENOMEM."""
    return RpcError(
        _Reason.ERROR_REASON_AGENT_LIMIT,
        "the agent's process is at a limit; nothing was signalled",
        "try again later, or raise the agent's limits (RLIMIT_NOFILE, memory)",
        limit=errno.errorcode.get(error.errno or 0, "unknown"),
    )
