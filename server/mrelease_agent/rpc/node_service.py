"""NodeService: what runs here, and what the agent can do here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from mrelease._version import VERSION
from mrelease.v1 import node_service_pb2, node_service_pb2_grpc, outcome_pb2, result_pb2, target_pb2
from mrelease_agent.guard.gate import Gate
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.reaping.sharer_search import SharerSearch
from mrelease_agent.rpc import convert, validate
from mrelease_agent.rpc.custom_name import kind_of
from mrelease_agent.rpc.errors import invalid, limit
from mrelease_agent.rpc.group_target import find, told
from mrelease_agent.rpc.visible import Visible
from mrelease_agent.rpc.watch_memory import Watchers, watch
from mrelease_agent.targets.cgroup_path import Qos
from mrelease_agent.targets.listing import Row, identify, processes

if TYPE_CHECKING:
    from mrelease_agent.targets.plugin_kinds import Kinds

_DEFAULT_PAGE = 50
_QOS = {
    Qos.GUARANTEED: node_service_pb2.QOS_CLASS_GUARANTEED,
    Qos.BURSTABLE: node_service_pb2.QOS_CLASS_BURSTABLE,
    Qos.BEST_EFFORT: node_service_pb2.QOS_CLASS_BEST_EFFORT,
}


class NodeService(node_service_pb2_grpc.NodeServiceServicer):
    """Serves GetNode, ListProcesses and WatchMemory."""

    def __init__(
        self,
        node: result_pb2.NodeIdentity,
        capabilities: Capabilities,
        watchers: Watchers,
        sharers: SharerSearch,
        gate: Gate,
        kinds: Kinds | None = None,
    ) -> None:
        self._identity = node
        self._capabilities = capabilities
        self._watchers = watchers
        self._sharers = sharers
        self._gate = gate
        self._kinds = kinds
        self._started = convert.timestamp(time.time())

    async def GetNode(  # noqa: N802 -- the contract's name
        self,
        request: node_service_pb2.GetNodeRequest,  # noqa: ARG002
        context: grpc.aio.ServicerContext[node_service_pb2.GetNodeRequest, node_service_pb2.GetNodeResponse],  # noqa: ARG002
    ) -> node_service_pb2.GetNodeResponse:
        """Describe the node, see node_service.proto."""
        system = os.uname()
        try:
            memory = linux_node.memory()
        except OSError as error:
            raise limit(error) from None
        node = node_service_pb2.Node(
            identity=self._identity,
            kernel_release=system.release,
            machine=system.machine,
            agent_version=VERSION,
            agent_start_time=self._started,
            agent_uid=os.geteuid(),
            capabilities=[convert.capability(found) for found in self._capabilities],
            memory=convert.node_memory(memory),
            target_kinds=[convert.target_kind(offer) for offer in self._kinds or ()],
        )
        return node_service_pb2.GetNodeResponse(node=node)

    async def ListProcesses(  # noqa: N802 -- the contract's name
        self,
        request: node_service_pb2.ListProcessesRequest,
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            node_service_pb2.ListProcessesRequest, node_service_pb2.ListProcessesResponse
        ],
    ) -> node_service_pb2.ListProcessesResponse:
        """List processes, see node_service.proto."""
        uid = request.uid if request.HasField("uid") else None
        validate.page(request.page_size, uid)
        if request.HasField("within"):
            validate.within(request.within)
        after = _cursor(request.page_token)
        visible = Visible(self._gate, "ListProcesses", kind_of(request.within))
        if request.within.HasField("custom"):
            self._check_kind(request.within)
        size = request.page_size or _DEFAULT_PAGE
        # A thousand processes cost some 40 ms of reading: not on the event loop.
        response = node_service_pb2.ListProcessesResponse(node=self._identity)
        try:
            with visible.veiled(), told("within"):
                pids = await self._pids(request.within) if request.HasField("within") else None
            rows = await asyncio.to_thread(processes, uid, pids)
            if not visible.everything:
                rows = await asyncio.to_thread(visible.rows, rows)
                if pids is not None and not rows:
                    raise visible.refuse()
            rest = [row for row in rows if after is None or row.order > after]
            sharing = await self._sharers.among([row.pid for row in rest[:size]])
            response.processes.extend(await asyncio.to_thread(self._infos, rest[:size], sharing))
        except OSError as error:
            raise limit(error) from None
        if len(rest) > size:
            largest, pid = rest[size - 1].order
            response.next_page_token = f"{-largest}.{pid}"
        return response

    def WatchMemory(  # noqa: N802 -- the contract's name
        self,
        request: node_service_pb2.WatchMemoryRequest,
        context: grpc.aio.ServicerContext[  # noqa: ARG002
            node_service_pb2.WatchMemoryRequest, node_service_pb2.WatchMemoryResponse
        ],
    ) -> AsyncGenerator[node_service_pb2.WatchMemoryResponse, None]:
        """Watch memory and its pressure, see node_service.proto."""
        visible = Visible(self._gate, "WatchMemory", kind_of(request.within))
        return watch(request, self._identity, self._capabilities, self._watchers, visible)

    def _check_kind(self, within: target_pb2.Target) -> None:
        from mrelease_agent.rpc.custom_target import check_kind  # only where they are asked for

        check_kind(self._kinds, within, "within")

    async def _pids(self, within: target_pb2.Target) -> list[int]:
        if not within.HasField("custom") or self._kinds is None:
            return await asyncio.to_thread(_pids, within)
        from mrelease_agent.rpc.custom_target import pids

        return await pids(self._kinds, within, "within")

    def _infos(self, rows: Sequence[Row], sharing: Mapping[int, Sequence[int]]) -> list[node_service_pb2.ProcessInfo]:
        found: list[node_service_pb2.ProcessInfo] = []
        for row in rows:
            with contextlib.suppress(ProcessGoneError):
                found.append(self._info(row, sharing.get(row.pid, ())))
        return found

    def _info(self, row: Row, sharers: Sequence[int]) -> node_service_pb2.ProcessInfo:
        found = identify(row, self._gate.protection.rule)
        return node_service_pb2.ProcessInfo(
            process=convert.process_target(found.identity, inode_known=self._capabilities.has(Feature.PIDFD_INODE)),
            command=found.identity.command,
            uid=row.uid,
            state=found.stat.state,
            threads=found.stat.threads,
            memory=convert.process_memory(row.memory),
            reclaimable_bytes=row.memory.reclaimable,
            cgroup=found.cgroup,
            protection=found.protection,
            container_id=found.membership.container_id,
            pod_uid=found.membership.pod_uid,
            qos=_QOS.get(found.membership.qos, node_service_pb2.QOS_CLASS_UNSPECIFIED),
            unreleased=[
                result_pb2.Unreleased(cause=cause, size_bytes=size)
                for cause, size in (
                    (outcome_pb2.UNRELEASED_CAUSE_SHMEM, row.memory.shmem),
                    (outcome_pb2.UNRELEASED_CAUSE_HUGETLB, row.memory.hugetlb),
                    (outcome_pb2.UNRELEASED_CAUSE_SHARED_MM, row.memory.reclaimable if sharers else 0),
                )
                if size
            ],
            sharing_pids=sharers,
        )


def _pids(target: target_pb2.Target) -> list[int]:
    with contextlib.ExitStack() as stack:
        return [pid for group in find(target) for pid in stack.enter_context(group).members()]


def _cursor(token: str) -> tuple[int, int] | None:
    """A page token as the order of the last row before the page. Raises RpcError (INVALID_ARGUMENT)."""
    if not token:
        return None
    size, _, pid = token.partition(".")
    if not (size.isdecimal() and pid.isdecimal() and size.isascii() and pid.isascii() and len(token) <= 64):
        raise invalid("page_token", "was not made by this agent", "use next_page_token of the previous page, or start without one")
    return -int(size), int(pid)
