"""How many calls there may be at once, so that no caller takes them all from the others."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator

from mrelease.v1 import error_reason_pb2
from mrelease_agent.rpc.errors import RpcError


class Share:
    """At most ``limit`` calls at once, and no caller has more of them than are still free."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._taken: Counter[str] = Counter()
        self._count = 0

    @contextlib.contextmanager
    def take(self, caller: str) -> Generator[None, None, None]:
        """Count a call for as long as the context lasts. Raises RpcError (RESOURCE_EXHAUSTED)."""
        if self._taken[caller] >= self._limit - self._count:
            raise RpcError(
                error_reason_pb2.ERROR_REASON_AGENT_LIMIT,
                f"the agent serves {self._count} {self._what}, {self._taken[caller]} of them of this caller",
                "wait for their answers, and ask again",
                limit=self._what,
            )
        self._taken[caller] += 1
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]
