"""A list, then a watch that goes on from it for ever: over ended connections, restarts of the API server, versions that are too old."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator
from typing import Any, Final, Protocol

import msgspec

from mrelease_agent.telemetry.logs import event
from mrelease_controller.api import Client, Unavailable, status_of, words
from mrelease_controller.metrics import Metrics

_log = logging.getLogger("mrelease.controller")
_PAGE: Final = 500
#: Seconds after which the server ends a watch.
_WATCH: Final = 280
_SHORTEST, _LONGEST = 0.2, 10.0
_GONE: Final = 410


class Keeper(Protocol):
    """Who keeps what is seen."""

    def begin(self) -> None:
        """A new list begins; everything that is there follows by ``see``."""

    def end(self) -> None:
        """It is whole."""

    def see(self, item: Any) -> None:
        """An object as it is now."""

    def gone(self, item: Any) -> None:
        """An object that is not there any more, as it was last."""


class Watching:
    """Objects of one kind; ``namespace``: "*" for all of them, None for what is in none. ``labels``: which of them."""

    def __init__(
        self,
        client: Client,
        resource: Any,
        keeper: Keeper,
        metrics: Metrics,
        *,
        namespace: str | None,
        labels: dict[str, str] | None = None,
    ) -> None:
        self._client, self._resource, self._keeper, self._metrics = client, resource, keeper, metrics
        self._where: dict[str, Any] = ({} if namespace is None else {"namespace": namespace}) | ({"labels": labels} if labels else {})
        self._name: str = resource._api_info.plural
        self._version = ""
        #: Set when all of it was seen once.
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        pause = _SHORTEST
        while True:
            try:
                if not self._version:
                    await self._list()
                async with contextlib.aclosing(self._events()) as events:
                    async for kind, item in events:
                        self._version = item.metadata.resourceVersion
                        pause = _SHORTEST
                        self._take(kind, item)
            except (*Unavailable, msgspec.MsgspecError) as error:
                self._trouble(error)
            # Not all of them at once, when it comes back.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - nobody has to guess it
            pause = min(pause * 2, _LONGEST)

    async def _list(self) -> None:
        self._keeper.begin()
        listed = self._client.list(self._resource, chunk_size=_PAGE, **self._where)
        async for item in listed:
            self._keeper.see(item)
        self._keeper.end()
        self._version = listed.resourceVersion
        self._metrics.listed(self._name)
        self.ready.set()

    def _events(self) -> AsyncGenerator[tuple[str, Any]]:
        found: AsyncGenerator[tuple[str, Any]] = self._client.watch(
            self._resource, resource_version=self._version, server_timeout=_WATCH, **self._where
        )
        return found

    def _take(self, kind: str, item: Any) -> None:
        if kind == "DELETED":
            self._keeper.gone(item)
        elif kind != "BOOKMARK":
            self._keeper.see(item)

    def _trouble(self, error: Exception) -> None:
        status = status_of(error)
        if status == _GONE:
            self._version = ""
        self._metrics.watch_ended(self._name, str(status or "connection"))
        level = logging.INFO if status == _GONE else logging.WARNING
        event(_log, level, "watch ended", resource=self._name, status=status or None, why=words(error))
