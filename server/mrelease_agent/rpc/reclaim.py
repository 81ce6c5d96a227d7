"""Reclaim: one candidate after the other until the goal is met. Never two when one is enough."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator

from mrelease.v1 import error_reason_pb2, release_service_pb2, result_pb2, target_pb2
from mrelease_agent.guard import caller as callers
from mrelease_agent.linux import node as linux_node
from mrelease_agent.reaping.outcome import Outcome
from mrelease_agent.reaping.report import Done, Plan
from mrelease_agent.rpc import convert
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.rpc.execution import Execution, Order, limits, not_exhausted
from mrelease_agent.rpc.goal import goal_of
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
_Reason = error_reason_pb2.ErrorReason
#: Errors that are the agent's or its node's, not a candidate's: the next one would meet them too.
_STOP = frozenset({"REAPERS_EXHAUSTED", "AGENT_LIMIT", "SHUTTING_DOWN", "AUDIT_UNAVAILABLE", "KILL_LIMIT"})


class Reclaiming:
    """Carries Reclaim requests out."""

    def __init__(self, node: result_pb2.NodeIdentity, execution: Execution, operations: Operations) -> None:
        self._node = node
        self._execution = execution
        self._operations = operations

    async def run(
        self, request: release_service_pb2.ReclaimRequest, plan: Plan
    ) -> AsyncGenerator[release_service_pb2.ReclaimResponse, None]:
        """Yield what happens; the last one is the summary. Raises RpcError where the agent cannot go on.

        When it is cancelled, the candidate that was signalled is followed to its end all the same, and no other one is touched.
        """
        goal = goal_of(request.goal)
        with limits():
            before = after = linux_node.memory()
            missing = await goal.missing()
        summary = release_service_pb2.ReclaimSummary(node=self._node, node_memory_before=convert.node_memory(before))
        named: set[bytes] = set()
        for index, candidate in enumerate(request.candidates):
            if missing <= 0 or (request.validate_only and summary.candidates_killed and not goal.predictable):
                break
            yield release_service_pb2.ReclaimResponse(started=release_service_pb2.ReclaimStarted(index=index, missing=missing))
            told = release_service_pb2.ReclaimedCandidate(index=index)
            try:
                done = await self._kill(request, candidate, plan, named)
            except RpcError as error:
                if error.details.reason in _STOP and error.details.metadata.get("scope") != "target":
                    raise
                told.passed_over.CopyFrom(_passed_over(error))
                summary.candidates_passed_over += 1
            else:
                told.result.CopyFrom(self._result(done))
                back = _would_release(done) if request.validate_only else done.released
                summary.candidates_killed += 1
                summary.released_bytes += back
                await goal.gained(back, real=not request.validate_only)
                with limits():
                    missing = await goal.missing()
            yield release_service_pb2.ReclaimResponse(candidate=told)
        summary.goal_met = missing <= 0
        with contextlib.suppress(OSError):
            after = linux_node.memory()
        summary.node_memory_after.CopyFrom(convert.node_memory(after))
        event(
            _log,
            logging.INFO,
            "reclaim",
            goal_met=summary.goal_met,
            killed=summary.candidates_killed,
            passed_over=summary.candidates_passed_over,
            released_bytes=summary.released_bytes,
            dry_run=request.validate_only or None,
            reason=request.reason or None,
        )
        yield release_service_pb2.ReclaimResponse(summary=summary)

    async def _kill(self, request: release_service_pb2.ReclaimRequest, candidate: target_pb2.Target, plan: Plan, named: set[bytes]) -> Done:
        """Kill one candidate, or check it. Raises RpcError: then nothing of it was signalled."""
        name = candidate.SerializeToString(deterministic=True)
        if name in named:
            raise RpcError(
                _Reason.ERROR_REASON_TARGET_NOT_FOUND,
                "an earlier candidate names the same target",
                "name each once",
                field="candidates",
                value="",
            )
        named.add(name)
        self._operations.admit()
        not_exhausted(self._execution)
        order = Order(candidate, plan, request.reason, request.validate_only, method="Reclaim", caller=callers.current.get())
        return await self._operations.run(self._execution.run(order))

    def _result(self, done: Done) -> result_pb2.ReleaseResult:
        return convert.result(done, self._node, None, None, inode_known=self._execution.inode_known)


def _would_release(done: Done) -> int:
    return sum(report.before.reclaimable for report in done.reports if report.before is not None and report.outcome is Outcome.VALIDATED)


def _passed_over(error: RpcError) -> release_service_pb2.PassedOver:
    return release_service_pb2.PassedOver(
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{error.details.reason}"),
        message=error.message,
        remedy=error.details.metadata.get("remedy", ""),
    )
