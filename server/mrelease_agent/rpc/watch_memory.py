"""WatchMemory: memory and memory pressure as a stream, at an interval and when the kernel's trigger fires."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncGenerator, Generator

from mrelease.v1 import error_reason_pb2, memory_pb2, node_service_pb2, result_pb2, target_pb2
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux import pressure
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.procfs import PAGE_SIZE
from mrelease_agent.rpc import convert, validate
from mrelease_agent.rpc.errors import RpcError, limit
from mrelease_agent.rpc.group_target import find, told
from mrelease_agent.rpc.visible import Visible
from mrelease_agent.targets.group import Group

_Reason = error_reason_pb2.ErrorReason
#: memory.limit_in_bytes of a v1 cgroup without a limit: PAGE_COUNTER_MAX pages, linux/page_counter.h.
_NO_LIMIT = (2**63 - 1) // PAGE_SIZE * PAGE_SIZE
#: What says that a trigger is not to be had, beside EINVAL: too old, read-only, switched off for this cgroup.
_NO_TRIGGER = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL)


class Watchers:
    """The streams of WatchMemory: so many at once, and all of them ended at once when the agent shuts down."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._wakers: set[Waker] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._wakers)

    def stop(self) -> None:
        """End all with SHUTTING_DOWN, and take no more."""
        self._stopped = True
        for waker in self._wakers:
            waker.stop()

    @contextlib.contextmanager
    def admit(self) -> Generator[Waker, None, None]:
        """Take one more for as long as the context lasts. Raises RpcError."""
        if self._stopped:
            raise _shutting_down()
        if len(self._wakers) >= self._limit:
            raise RpcError(
                _Reason.ERROR_REASON_AGENT_LIMIT,
                f"{self._limit} callers are watching",
                "try again later, or raise max_watchers",
                limit="max_watchers",
            )
        waker = Waker()
        self._wakers.add(waker)
        try:
            yield waker
        finally:
            self._wakers.discard(waker)


class Waker:
    """What ends the pause between two messages before its time."""

    __slots__ = ("_event", "_fired", "_stopped")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._fired = self._stopped = False

    def fire(self) -> None:
        """The trigger has fired."""
        self._fired = True
        self._event.set()

    def stop(self) -> None:
        """The agent shuts down."""
        self._stopped = True
        self._event.set()

    async def pause(self, until: float | None) -> bool:
        """Wait until this monotonic time, None: for ever; whether the trigger has fired. Raises RpcError (SHUTTING_DOWN)."""
        timeout = None if until is None else max(0.0, until - time.monotonic())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._event.wait(), timeout)
        if self._stopped:
            raise _shutting_down()
        self._event.clear()
        fired, self._fired = self._fired, False
        return fired


async def watch(
    request: node_service_pb2.WatchMemoryRequest,
    node: result_pb2.NodeIdentity,
    capabilities: Capabilities,
    watchers: Watchers,
    visible: Visible,
) -> AsyncGenerator[node_service_pb2.WatchMemoryResponse, None]:
    """Serve one call, see node_service.proto. Closing the generator ends the watch. Raises RpcError."""
    interval, stall, window = validate.watch_memory(request)
    with watchers.admit() as waker, contextlib.ExitStack() as stack:
        group = None
        if request.HasField("within"):
            with visible.veiled(), _limits(), told("within"):
                group = stack.enter_context(await _open(request.within))
                if not visible.everything and not await asyncio.to_thread(visible.groups, [group]):
                    raise visible.refuse()
        message = _sample(group, capabilities)
        message.node.CopyFrom(node)
        # Before the first message, which so says that the trigger is set.
        if request.HasField("trigger"):
            stack.callback(_trigger(request.trigger.kind, stall, window, group, capabilities, waker).close)
        following = time.monotonic()
        while True:
            yield message
            if interval is not None:
                # A caller that has not read in time has missed what was between: no burst makes up for it.
                following = max(following + interval, time.monotonic())
            fired = await waker.pause(None if interval is None else following)
            if fired and interval is not None:
                following -= interval
            message = _sample(group, capabilities)
            message.triggered = fired


def _sample(group: Group | None, capabilities: Capabilities) -> node_service_pb2.WatchMemoryResponse:
    with _limits():
        message = node_service_pb2.WatchMemoryResponse(
            sample_time=convert.timestamp(time.time()), memory=convert.node_memory(linux_node.memory())
        )
        if capabilities.has(Feature.MEMORY_PRESSURE):
            message.pressure.CopyFrom(_pressure(pressure.node()))
        if group is not None:
            _cgroup(group, message.cgroup)
        return message


def _cgroup(group: Group, into: node_service_pb2.WatchedCgroup) -> None:
    usage = group.memory_usage()
    if usage is None:
        if group.gone():
            raise RpcError(
                _Reason.ERROR_REASON_TARGET_NOT_FOUND,
                "the watched cgroup was removed",
                "it has ended; there is nothing left to watch",
                field="within",
                value=group.path[:256],
            )
        raise RpcError(
            _Reason.ERROR_REASON_FEATURE_UNAVAILABLE,
            "the memory of this cgroup is not counted by itself",
            "watch the cgroup above it, or enable its memory controller (cgroup.subtree_control)",
            feature="FEATURE_MEMORY_CGROUP",
        )
    into.path = group.path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    into.usage_bytes = usage
    with contextlib.suppress(ValueError):  # "max", or removed since
        most = int(group.read("memory.max" if group.tree.version == 2 else "memory.limit_in_bytes"))
        if most < _NO_LIMIT:
            into.limit_bytes = most
    if group.tree.version == 2:
        with contextlib.suppress(OSError, ValueError, KeyError):  # EOPNOTSUPP: switched off by cgroup.pressure
            into.pressure.CopyFrom(_pressure(pressure.parse(group.read(pressure.CGROUP_FILE))))


def _trigger(
    kind: memory_pb2.PressureKind.ValueType, stall: float, window: float, group: Group | None, capabilities: Capabilities, waker: Waker
) -> pressure.Trigger:
    found = capabilities[Feature.MEMORY_PRESSURE]
    if not found.available:
        raise _unavailable(found.reason, found.remedy)
    if group is not None and group.tree.version == 1:
        raise _unavailable("cgroup v1 does not measure the pressure of a cgroup", "use a trigger of the node, without within")
    try:
        fd = pressure.open_node() if group is None else group.open(pressure.CGROUP_FILE, pressure.TRIGGER_FLAGS)
        return pressure.Trigger(fd, "full" if kind == memory_pb2.PRESSURE_KIND_FULL else "some", stall, window, waker.fire)
    except OSError as error:
        if error.errno not in _NO_TRIGGER:
            raise limit(error) from None
        raise _unavailable(
            "the kernel does not let this agent set a pressure trigger",
            "give the agent CAP_SYS_RESOURCE, or run it as root on Linux 6.4 or newer; without a trigger, watch at an interval",
        ) from None


async def _open(target: target_pb2.Target) -> Group:
    """Find the group on a thread; it is closed also where the caller goes away before it is found."""
    search = asyncio.get_running_loop().run_in_executor(None, find, target)
    try:
        (group,) = await asyncio.shield(search)
    except asyncio.CancelledError:
        search.add_done_callback(_close_all)
        raise
    return group


def _close_all(search: asyncio.Future[list[Group]]) -> None:
    if not search.cancelled() and search.exception() is None:
        for group in search.result():
            group.close()


def _pressure(found: pressure.Pressure) -> memory_pb2.MemoryPressure:
    return memory_pb2.MemoryPressure(some=_stall(found.some), full=_stall(found.full))


def _stall(found: pressure.Stall) -> memory_pb2.PressureStall:
    message = memory_pb2.PressureStall(avg10_percent=found.avg10, avg60_percent=found.avg60, avg300_percent=found.avg300)
    message.total_duration.FromMicroseconds(round(found.total * 1e6))
    return message


def _unavailable(reason: str, remedy: str) -> RpcError:
    return RpcError(_Reason.ERROR_REASON_FEATURE_UNAVAILABLE, reason, remedy, feature="FEATURE_MEMORY_PRESSURE")


def _shutting_down() -> RpcError:
    return RpcError(_Reason.ERROR_REASON_SHUTTING_DOWN, "the agent is shutting down", "watch again when it has been started again")


@contextlib.contextmanager
def _limits() -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise limit(error) from None
