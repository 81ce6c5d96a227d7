"""ReleaseService: from a request to an operation on a process, step by step, and back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass

import grpc
import grpc.aio

from mrelease.v1 import error_reason_pb2, outcome_pb2, release_service_pb2, release_service_pb2_grpc, result_pb2
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping.operation import LimitError, Measured, NotDyingError, Operation, Syscall
from mrelease_agent.reaping.outcome import Outcome, Step, verdict
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.report import Charge, Done, Plan, Report
from mrelease_agent.reaping.set_operation import SetOperation
from mrelease_agent.rpc import convert, validate
from mrelease_agent.rpc.errors import RpcError, limit
from mrelease_agent.rpc.group_target import GroupMembers, empty, find, told
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.rpc.process_target import admit, not_dying, not_found, not_permitted
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics

_Reason = error_reason_pb2.ErrorReason
_log = logging.getLogger("mrelease")
#: Share of a caller's remaining deadline that is kept for the answer's way back: at least 20 ms, at most 250 ms.
_ANSWER_SHARE, _ANSWER_LEAST, _ANSWER_MOST = 0.05, 0.02, 0.25
#: Seconds for which an operation goes on however little time its caller has.
_LEAST_EFFORT = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Defaults and bounds in seconds, from the configuration."""

    reap_delay: float
    default_timeout: float
    max_timeout: float


class ReleaseService(release_service_pb2_grpc.ReleaseServiceServicer):
    """Serves KillAndRelease and Release. ``call`` is the seam for what the kernel cannot be made to answer."""

    def __init__(
        self,
        node: result_pb2.NodeIdentity,
        settings: Settings,
        capabilities: Capabilities,
        reapers: Reapers,
        operations: Operations,
        metrics: Metrics,
        call: Syscall = process_mrelease,
    ) -> None:
        self._node = node
        self._settings = settings
        self._capabilities = capabilities
        self._reapers = reapers
        self._operations = operations
        self._metrics = metrics
        self._call = call

    async def KillAndRelease(  # noqa: N802 -- the contract's name
        self,
        request: release_service_pb2.KillAndReleaseRequest,
        context: grpc.aio.ServicerContext[release_service_pb2.KillAndReleaseRequest, release_service_pb2.KillAndReleaseResponse],
    ) -> release_service_pb2.KillAndReleaseResponse:
        """Kill and release, see release_service.proto."""
        return release_service_pb2.KillAndReleaseResponse(result=await self._serve(request, context.time_remaining(), kill=True))

    async def Release(  # noqa: N802 -- the contract's name
        self,
        request: release_service_pb2.ReleaseRequest,
        context: grpc.aio.ServicerContext[release_service_pb2.ReleaseRequest, release_service_pb2.ReleaseResponse],
    ) -> release_service_pb2.ReleaseResponse:
        """Release what is already dying, see release_service.proto."""
        return release_service_pb2.ReleaseResponse(result=await self._serve(request, context.time_remaining(), kill=False))

    async def _serve(self, request: validate.KillOrRelease, remaining: float | None, *, kill: bool) -> result_pb2.ReleaseResult:
        start = time.monotonic()
        validate.request(request, max_timeout=self._settings.max_timeout)
        self._check_node(request)
        self._operations.admit()
        if self._reapers.exhausted:
            raise RpcError(
                _Reason.ERROR_REASON_REAPERS_EXHAUSTED,
                "every reaper thread is stuck in the kernel; nothing was signalled",
                "try again later; `reaper_threads` in the agent's metrics tells, a process that holds mmap_lock in state D is the cause",
            )
        plan = self._plan(request, remaining, kill=kill)
        with _limits():
            before = linux_node.memory()
        if not request.target.HasField("process"):
            done = await self._operations.run(self._many(request, plan, start))
        else:
            with _limits():
                ref = admit(request.target.process, kill=kill, inode_known=self._inode_known)
            self._metrics.step("resolve", time.monotonic() - start)
            if request.validate_only:
                done = self._validated([ref], request.reason)
            else:
                done = await self._operations.run(self._one(ref, plan, request.reason))
        after = before
        with contextlib.suppress(OSError):  # a limit of the agent's process; the result matters more than this context
            after = linux_node.memory()
        return convert.result(done, self._node, before, after, inode_known=self._inode_known)

    async def _one(self, ref: ProcessRef, plan: Plan, reason: str) -> Done:
        pid = ref.pid
        start = time.monotonic()
        try:
            report = await self._operation(ref, plan).run()
        except NotDyingError:
            raise not_dying(f"process {pid}", pid=pid) from None
        except LimitError as error:
            raise limit(error.cause) from None
        except ProcessLookupError:
            raise not_found(pid) from None
        except PermissionError:
            raise not_permitted(pid) from None
        return self._done(Done([report]), plan, reason, start)

    async def _many(self, request: validate.KillOrRelease, plan: Plan, start: float) -> Done:
        """Everything for a container, pod or cgroup, in the operation's own task: what is open is closed whatever becomes of the caller."""
        with contextlib.ExitStack() as stack:
            with _limits(), told("target"):
                opened = await asyncio.to_thread(find, request.target)
                for group in opened:
                    stack.enter_context(group)
                members = GroupMembers(opened)
                first = await members.fresh()
            if not first:
                raise empty("target")
            self._metrics.step("resolve", time.monotonic() - start)
            if request.validate_only:
                return self._validated([member.ref for member in first], request.reason)
            before = [group.memory_usage() for group in opened]
            begun = time.monotonic()
            try:
                reports = await SetOperation(members, plan, self._operation).run(first)
            except NotDyingError:
                raise not_dying("the target", field="target") from None
            except LimitError as error:
                raise limit(error.cause) from None
            charges = [
                Charge(group.path, held, group.memory_usage(), group.shmem())
                for group, held in zip(opened, before, strict=True)
                if held is not None
            ]
            return self._done(Done(reports, charges), plan, request.reason, begun)

    def _done(self, done: Done, plan: Plan, reason: str, start: float) -> Done:
        """Count and log a finished operation, whoever still waits for it."""
        method = "KillAndRelease" if plan.kill else "Release"
        self._metrics.step("total", time.monotonic() - start)
        for report in done.reports:
            self._metrics.outcome(method, report.outcome.name, report.released)
        if len(done.reports) == 1 and not done.charges:
            _log_process(method, done.reports[0], reason)
        else:
            found = verdict(report.outcome for report in done.reports).name
            paths = " ".join(charge.path for charge in done.charges)
            count, back = len(done.reports), done.released
            event(
                _log,
                logging.INFO,
                "operation",
                method=method,
                cgroups=paths,
                processes=count,
                verdict=found,
                released_bytes=back,
                reason=reason or None,
            )
        return done

    def _validated(self, refs: list[ProcessRef], reason: str) -> Done:
        reports: list[Report] = []
        for ref in refs:
            with ref:
                report = Report(ref.identity, Outcome.VALIDATED, Step.GUARD)
                report.before = report.after = ref.memory()
                reports.append(report)
        event(_log, logging.INFO, "validated", pid=refs[0].pid, command=refs[0].stat.comm, processes=len(refs), reason=reason or None)
        return Done(reports)

    def _operation(self, ref: ProcessRef, plan: Plan, measured: Measured | None = None) -> Operation:
        return Operation(
            ref,
            plan,
            self._reapers,
            can_release=self._capabilities.has(Feature.PROCESS_MRELEASE),
            call=self._call,
            tell=self._metrics.step,
            count_error=self._metrics.syscall_error,
            measured=measured,
        )

    @property
    def _inode_known(self) -> bool:
        return self._capabilities.has(Feature.PIDFD_INODE)

    def _check_node(self, request: validate.KillOrRelease) -> None:
        for field in ("name", "boot_id"):
            expected, actual = getattr(request.node, field), getattr(self._node, field)
            if expected and expected != actual:
                raise RpcError(
                    _Reason.ERROR_REASON_NODE_MISMATCH,
                    f"node.{field} is {expected}, this is {actual}; nothing was signalled",
                    "the request reached another node, or the node was booted since: look the target up again",
                    field=f"node.{field}",
                    expected=expected,
                    actual=actual,
                )

    def _plan(self, request: validate.KillOrRelease, remaining: float | None, *, kill: bool) -> Plan:
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else self._settings.default_timeout
        if remaining is not None:
            answer_by = remaining - min(max(remaining * _ANSWER_SHARE, _ANSWER_LEAST), _ANSWER_MOST)
            # A caller in a hurry shortens the wait, but what is killed is released even if nobody hears of it.
            timeout = min(timeout, max(answer_by, _LEAST_EFFORT))
        delay = self._settings.reap_delay
        if isinstance(request, release_service_pb2.KillAndReleaseRequest) and request.HasField("reap_delay"):
            delay = request.reap_delay.ToNanoseconds() / 1e9
        return Plan(kill=kill, wait_for_exit=request.wait == outcome_pb2.WAIT_EXITED, timeout=timeout, reap_delay=delay)


@contextlib.contextmanager
def _limits() -> Generator[None, None, None]:
    """Before anything is signalled, a failing system call is a limit of the agent's process."""
    try:
        yield
    except OSError as error:
        raise limit(error) from None


def _log_process(method: str, report: Report, reason: str) -> None:
    event(
        _log,
        logging.INFO,
        "operation",
        method=method,
        pid=report.process.pid,
        command=report.process.command,
        outcome=report.outcome.name,
        errno=errno.errorcode.get(report.errno) if report.errno else None,
        released_bytes=report.released,
        proof=report.proof.name,
        release_ms=_ms(report.release_duration),
        exit_ms=_ms(report.exit_duration),
        reason=reason or None,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
