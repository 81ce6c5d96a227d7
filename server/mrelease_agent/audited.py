"""How the agent has its audit log: from the configuration to the gate, and from the log to readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from grpc_health.v1 import health_pb2

from mrelease_agent.config import Config
from mrelease_agent.guard.gate import Gate
from mrelease_agent.linux import node
from mrelease_agent.linux.capabilities import Capability, Feature
from mrelease_agent.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from grpc_health.v1._async import HealthServicer

#: What audit_dir says where no log is wanted.
OFF: Final = "none"
#: Services of grpc.health.v1 that are of no use while nothing is killed.
_KILLING: Final = ("", "mrelease.v1.ReleaseService")


def directory(config: Config) -> Path | None:
    """Where the audit log is; None where there is none."""
    return None if config.audit_dir in ("", OFF) else Path(config.audit_dir)


def feature(config: Config) -> Capability:
    """Whether there is an audit log."""
    where = directory(config)
    if where is not None:
        return Capability(Feature.AUDIT, True, f"what is killed is durably recorded in {where} before")
    return Capability(
        Feature.AUDIT,
        False,
        f"no audit log is kept{', as configured' if config.audit_dir else ''}: who had what killed is in the agent's log at most",
        "set audit_dir to a directory of the agent's own, for example /var/log/mrelease/audit",
    )


class Audited:
    """Whether the agent can keep its audit log, for who asks whether it is ready."""

    def __init__(self) -> None:
        #: Why nothing is killed now, in one line; None where all is well or no log is kept.
        self.why: str | None = None
        self._health: HealthServicer | None = None
        self._setting: set[asyncio.Task[None]] = set()

    async def serve(self, health: HealthServicer, services: tuple[str, ...]) -> None:
        """Say of the services whether they serve, from now on."""
        self._health = health
        for service in services:
            await health.set(service, self._status(service))

    def changed(self, why: str | None) -> None:
        """On the event loop: the log can be written, or why not."""
        self.why = why
        if self._health is not None:
            for service in _KILLING:
                task = asyncio.ensure_future(self._health.set(service, self._status(service)))
                self._setting.add(task)
                task.add_done_callback(self._setting.discard)

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus.ValueType:
        works = self.why is None or service not in _KILLING
        return health_pb2.HealthCheckResponse.SERVING if works else health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def audited(config: Config, gate: Gate, metrics: Metrics) -> AsyncGenerator[Audited, None]:
    """Give ``gate`` its audit log, where one is configured, for as long as the context lasts."""
    state = Audited()
    where = directory(config)
    if where is None:
        yield state
        return
    from mrelease_agent.guard.audit.log import AuditLog

    log = AuditLog(
        where,
        config.audit_max_file,
        config.audit_max_files,
        node=config.node_name,
        boot=node.boot_id(),
        metrics=metrics,
        changed=state.changed,
    )
    try:
        await log.opened()
        gate.audit = log
        state.why = log.why
        yield state
    finally:
        await log.close()
