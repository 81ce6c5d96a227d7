"""Why the guard lets a request do nothing. Plain exceptions: the rpc room says them in the contract's words."""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 -- it is an answer and no defect
    """Base: nothing was signalled. ``message`` and ``remedy`` are written for the caller, and reveal nothing that it may not know."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class NotPermitted(Refused):
    """The access policy does not let this caller do this to this target."""


class OverLimit(Refused):
    """More would be killed than is allowed in a window.

    ``limit``: which one, for example ``max_kills``; ``scope``: ``caller``, ``node`` or ``target``; ``retry_after``: seconds until as much
    as was asked for is allowed again, None where it never is, because it alone is more.
    """

    def __init__(self, message: str, remedy: str, *, limit: str, scope: str, retry_after: float | None) -> None:
        super().__init__(message, remedy)
        self.limit = limit
        self.scope = scope
        self.retry_after = retry_after


class AuditUnavailable(Refused):
    """The intent could not be made durable in the audit log."""
