"""Clients of a fleet: made when they are needed, kept for the next call, the least recently used ones closed beyond a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from mrelease._async_client import AsyncClient
from mrelease._fleet_models import Member
from mrelease._tls import TLS

_Key: TypeAlias = "tuple[str, TLS | None]"


@dataclass(slots=True)
class _Kept:
    client: AsyncClient
    users: int = 0


class Clients:
    """At most ``limit`` clients are open, but for those in use. Belongs to an event loop."""

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit, self._timeout = limit, timeout
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @asynccontextmanager
    async def use(self, member: Member) -> AsyncGenerator[AsyncClient, None]:
        """The client of a member, for as long as the block lasts. Raises ``member.problem``, InvalidAddress, InvalidTLS."""
        if member.problem is not None:
            raise member.problem
        key = (member.address, member.tls)
        if key not in self._kept:
            # Descriptors may be short: what is not needed goes before another one comes.
            await self._close_idle(self._limit - 1)
        # Another task may have made it meanwhile.
        if key not in self._kept:
            self._kept[key] = _Kept(AsyncClient(member.address, tls=member.tls, timeout=self._timeout))
        kept = self._kept[key]
        self._kept.move_to_end(key)
        kept.users += 1
        try:
            yield kept.client
        finally:
            kept.users -= 1

    async def close(self) -> None:
        """Close them all. Calls under way end with ``Cancelled``."""
        while self._kept:
            await self._kept.popitem()[1].client.close()

    async def _close_idle(self, most: int) -> None:
        while len(self._kept) > most:
            # Looked for each time: while one is closed another task may take the next.
            key = next((key for key, kept in self._kept.items() if not kept.users), None)
            if key is None:
                return
            await self._kept.pop(key).client.close()
