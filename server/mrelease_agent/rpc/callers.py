"""Who makes a call: from what gRPC knows of the connection to a Caller."""

from __future__ import annotations

from typing import Any

from mrelease_agent.guard.caller import Caller

_UNIX = Caller("unix")
_LOOPBACK = Caller("loopback")


def caller_of(context: Any) -> Caller:
    """The caller of a call, by its connection."""
    return _UNIX if str(context.peer()).startswith("unix") else _LOOPBACK
