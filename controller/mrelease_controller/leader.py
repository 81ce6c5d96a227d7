"""Which of several controllers acts: the holder of a Lease, as client-go's leader election has it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timezone
from typing import Any, Final

from mrelease_agent.telemetry.logs import event
from mrelease_controller.api import Client, Unavailable, status_of, words
from mrelease_controller.metrics import Metrics
from mrelease_controller.objects import Lease

_log = logging.getLogger("mrelease.controller")
#: Seconds: a lease that was not renewed for so long may be taken; its holder stops acting before; how often it is looked at.
DURATION: Final = 15
DEADLINE: Final = 10.0
PERIOD: Final = 2.0
_NOT_FOUND, _CONFLICT = 404, 409


class Leader:
    """A candidate. ``name`` and ``namespace``: of the Lease; ``identity``: who this is, unlike any other candidate."""

    def __init__(self, client: Client, namespace: str, name: str, identity: str, metrics: Metrics) -> None:
        self._client, self._namespace, self._name, self._identity = client, namespace, name, identity
        self._metrics = metrics
        #: What another one wrote last, and when that was seen: by the clock of this machine alone.
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._renewed = float("-inf")
        self._known: Any = None
        self._changed = asyncio.Event()
        self._said = False

    @property
    def is_leading(self) -> bool:
        """Whether it may act now. To be asked right before each act: a machine that stood still has lost the lease."""
        return time.monotonic() - self._renewed < DEADLINE

    async def wait(self) -> None:
        """Until it leads."""
        while not self.is_leading:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Seek and keep the lease, until it is cancelled; then give it back, so that the next one need not wait."""
        try:
            while True:
                try:
                    await asyncio.wait_for(self._turn(), DEADLINE)
                except (*Unavailable, asyncio.TimeoutError) as error:
                    event(_log, logging.WARNING, "lease not renewed", why=words(error))
                    self._known = None
                self._tell()
                await asyncio.sleep(PERIOD)
        finally:
            await self._give_back()

    async def _turn(self) -> None:
        asked = time.monotonic()
        try:
            lease: Any = (
                self._known
                if self.is_leading and self._known is not None
                else await self._client.get(Lease, self._name, namespace=self._namespace)
            )
        except Unavailable as error:
            if status_of(error) != _NOT_FOUND:
                raise
            await self._write(None, asked)
            return
        spec: dict[str, Any] = lease.get("spec") or {}
        holder, renewed = str(spec.get("holderIdentity") or ""), str(spec.get("renewTime") or "")
        if (holder, renewed) != self._seen:
            self._seen, self._seen_at = (holder, renewed), asked
        duration = float(spec.get("leaseDurationSeconds") or DURATION)
        if holder in ("", self._identity) or asked - self._seen_at >= duration:
            await self._write(lease, asked)

    async def _write(self, lease: Any, asked: float) -> None:
        known: dict[str, Any] = {} if lease is None else lease.get("spec") or {}
        spec = dict(known)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_ours = spec.get("holderIdentity") == self._identity
        spec |= {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION, "renewTime": now}
        if not is_ours:
            spec |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (lease is not None)}
        try:
            self._known = await self._store(lease, spec)
        except Unavailable as error:
            self._known = None
            if status_of(error) != _CONFLICT:
                raise
            # Another one was faster: the next turn sees who.
            return
        # From before the request: when the server took it is not known.
        self._renewed = asked

    async def _store(self, lease: Any, spec: dict[str, Any]) -> Any:
        metadata = {"name": self._name, "namespace": self._namespace}
        if lease is None:
            return await self._client.create(Lease(metadata=metadata, spec=spec), namespace=self._namespace)
        # With its resourceVersion: of two who write, one is refused.
        return await self._client.replace(Lease({**lease, "spec": spec}), namespace=self._namespace)

    def _tell(self) -> None:
        leads = self.is_leading
        self._metrics.leads(leads)
        if leads != self._said:
            self._said = leads
            event(
                _log, logging.INFO, "leading" if leads else "not leading", lease=f"{self._namespace}/{self._name}", identity=self._identity
            )
        if leads:
            self._changed.set()

    async def _give_back(self) -> None:
        if not self.is_leading or self._known is None:
            return
        self._renewed = float("-inf")
        try:
            await asyncio.wait_for(self._store(self._known, {**self._known["spec"], "holderIdentity": ""}), PERIOD)
        except (*Unavailable, asyncio.TimeoutError) as error:
            event(_log, logging.WARNING, "lease not given back", why=words(error))


class Alone:
    """For one controller that has no other beside it."""

    is_leading = True

    async def wait(self) -> None:
        """It does."""

    async def run(self) -> None:
        """Nothing is to be done."""
        await asyncio.Event().wait()
