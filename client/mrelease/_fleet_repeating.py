"""When a fleet asks for the same kill or release again: never where something could be killed twice.

Made again is what certainly was not begun: there was no connection, or the agent refused because it is shutting down. An answer that is
lost is looked for by the operation's ``request_id``, with ``WatchRelease``, which reads: an agent that has forgotten the id, as after its
restart, says so and kills nothing, where the same request would be a new one to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from mrelease import errors
from mrelease._async_client import AsyncClient
from mrelease._models import ReleaseResult
from mrelease.v1 import release_service_pb2

#: Seconds after which a request that was not begun is no longer made again.
PATIENCE: Final = 5.0
# Pauses before the next attempt, in seconds; each attempt at a node that is there takes less than the first.
_PAUSES: Final = (0.1, 0.4, 1.0)
_NOT_BEGUN: Final = (errors.Unreachable, errors.ShuttingDown)
# Errors of the look itself; any other is how the operation has ended.
_NOT_FOUND: Final = (errors.OperationNotFound, errors.UnknownMethod, errors.Denied, errors.Unavailable, errors.OutcomeUnknown)
# How an agent that does not know `request_id` names it when it refuses it.
_UNKNOWN_FIELD: Final = {
    str(request.REQUEST_ID_FIELD_NUMBER) for request in (release_service_pb2.KillAndReleaseRequest, release_service_pb2.ReleaseRequest)
}


async def repeated(
    client: AsyncClient,
    make: Callable[[str], Awaitable[ReleaseResult]],
    request_id: str,
    *,
    needed: bool,
    seconds: float,
) -> ReleaseResult:
    """The result of a request that ``make`` makes with the id it is given; empty: without one.

    ``needed``: the id is the caller's own, so an agent that does not know ids is an error. ``seconds``: how long a lost answer is looked
    for. Raises ``errors.AgentError``.
    """
    begun, pauses = time.monotonic(), iter(_PAUSES)
    while isinstance(answer := await _attempt(make, request_id), errors.AgentError):
        if isinstance(answer, _NOT_BEGUN):
            pause = next(pauses, None)
            if pause is None or time.monotonic() + pause > begun + PATIENCE:
                raise answer
            await asyncio.sleep(pause)
        elif request_id and not needed and isinstance(answer, errors.InvalidField) and answer.metadata.get("field") in _UNKNOWN_FIELD:
            # An older agent has no ids. Nothing was signalled, and nobody but the fleet asked for one.
            request_id = ""
        elif request_id and isinstance(answer, errors.ConnectionLost):
            found = await _look(client, request_id, begun + seconds)
            if found is None:
                raise answer
            return found
        else:
            raise answer
    return answer


async def _attempt(make: Callable[[str], Awaitable[ReleaseResult]], request_id: str) -> ReleaseResult | errors.AgentError:
    try:
        return await make(request_id)
    except errors.AgentError as error:
        return error


async def _look(client: AsyncClient, request_id: str, end: float) -> ReleaseResult | None:
    """The result of an operation whose answer was lost, waited for; None where it cannot be had."""
    for pause in _PAUSES:
        await asyncio.sleep(pause)
        left = end - time.monotonic()
        if left <= 0:
            return None
        found = await _watched(client, request_id, left)
        if not isinstance(found, errors.AgentError):
            return found
        if not isinstance(found, (*_NOT_BEGUN, errors.ConnectionLost)):
            break
    return None


async def _watched(client: AsyncClient, request_id: str, seconds: float) -> ReleaseResult | errors.AgentError | None:
    try:
        async with aclosing(client.watch_release(request_id, timeout=seconds)) as news:
            async for each in news:
                if isinstance(each, ReleaseResult):
                    return each
    except _NOT_FOUND as error:
        return error
    return None
