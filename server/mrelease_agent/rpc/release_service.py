"""ReleaseService: from a request to an operation on a process, step by step, and back."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from dataclasses import dataclass

import grpc
import grpc.aio

from mrelease.v1 import error_reason_pb2, outcome_pb2, release_service_pb2, release_service_pb2_grpc, result_pb2, target_pb2
from mrelease_agent.guard.protected import protection
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux.capabilities import Capabilities, Feature
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.linux.syscalls import process_mrelease
from mrelease_agent.reaping.operation import LimitError, NotDyingError, Operation, Syscall
from mrelease_agent.reaping.outcome import Outcome, Step
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.report import Plan, Report
from mrelease_agent.rpc import convert, validate
from mrelease_agent.rpc.errors import RpcError, invalid, limit
from mrelease_agent.rpc.operations import Operations
from mrelease_agent.targets.process import IdentityMismatchError, resolve
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
        try:
            before = linux_node.memory()
            ref = self._admit(request.target.process, kill=kill)
        except OSError as error:
            raise limit(error) from None
        plan = self._plan(request, remaining, kill=kill)
        self._metrics.step("resolve", time.monotonic() - start)
        if request.validate_only:
            report = _validated(ref)
            event(_log, logging.INFO, "validated", pid=ref.pid, command=report.process.command, reason=request.reason or None)
        else:
            report = await self._operations.run(self._operate(ref, plan, request.reason))
        after = before
        with contextlib.suppress(OSError):  # a limit of the agent's process; the result matters more than this context
            after = linux_node.memory()
        return convert.result([report], self._node, before, after, inode_known=self._inode_known)

    async def _operate(self, ref: ProcessRef, plan: Plan, reason: str) -> Report:
        method = "KillAndRelease" if plan.kill else "Release"
        pid = ref.pid
        start = time.monotonic()
        operation = Operation(
            ref,
            plan,
            self._reapers,
            can_release=self._capabilities.has(Feature.PROCESS_MRELEASE),
            call=self._call,
            tell=self._metrics.step,
            count_error=self._metrics.syscall_error,
        )
        try:
            report = await operation.run()
        except NotDyingError:
            raise RpcError(
                _Reason.ERROR_REASON_NOT_DYING,
                f"process {pid} is not dying; nothing was signalled",
                "Release only releases what someone else has killed: use KillAndRelease to kill it",
                pid=pid,
            ) from None
        except LimitError as error:
            raise limit(error.cause) from None
        except ProcessLookupError:
            raise _not_found(pid) from None
        except PermissionError:
            raise _not_permitted(pid) from None
        self._metrics.step("total", time.monotonic() - start)
        self._metrics.outcome(method, report.outcome.name, report.released)
        event(
            _log,
            logging.INFO,
            "operation",
            method=method,
            pid=pid,
            command=report.process.command,
            outcome=report.outcome.name,
            errno=errno.errorcode.get(report.errno) if report.errno else None,
            released_bytes=report.released,
            proof=report.proof.name,
            release_ms=_ms(report.release_duration),
            exit_ms=_ms(report.exit_duration),
            reason=reason or None,
        )
        return report

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

    def _admit(self, process: target_pb2.ProcessTarget, *, kill: bool) -> ProcessRef:
        """Resolve and guard. Raises RpcError; OSError for limits."""
        ref = self._resolve(process)
        try:
            self._guard(ref, kill=kill)
        except BaseException:
            ref.close()
            raise
        return ref

    def _resolve(self, process: target_pb2.ProcessTarget) -> ProcessRef:
        pid = process.pid
        if process.pidfd_inode and not self._inode_known:
            raise RpcError(
                _Reason.ERROR_REASON_FEATURE_UNAVAILABLE,
                "target.process.pidfd_inode cannot be compared: this kernel gives every pidfd one inode number",
                "use start_time_ticks, or Linux 6.9 or newer",
                feature="FEATURE_PIDFD_INODE",
            )
        try:
            return resolve(pid, pidfd_inode=process.pidfd_inode, start_time_ticks=process.start_time_ticks)
        except ProcessGoneError:
            raise _not_found(pid) from None
        except NotALeaderError as error:
            remedy = f"name its process, {error.leader}"
            raise invalid("target.process.pid", f"{pid} is a thread of a process", remedy) from None
        except IdentityMismatchError as error:
            raise RpcError(
                _Reason.ERROR_REASON_IDENTITY_MISMATCH,
                f"another process has pid {pid}: {error.field} is {error.actual}, not {error.expected}; nothing was signalled",
                "the process that was meant is gone; list the processes again",
                pid=pid,
                field=f"target.process.{error.field}",
                expected=error.expected,
                actual=error.actual,
            ) from None

    def _guard(self, ref: ProcessRef, *, kill: bool) -> None:
        if ref.stat.kernel_thread:
            raise RpcError(
                _Reason.ERROR_REASON_KERNEL_THREAD,
                f"process {ref.pid} is a kernel thread: it would accept SIGKILL and ignore it",
                "find the process whose work it does",
                pid=ref.pid,
            )
        rule = protection(ref.stat)
        if rule is not None:
            raise RpcError(
                _Reason.ERROR_REASON_PROTECTED,
                f"process {ref.pid} is protected ({rule}); nothing was signalled",
                "the agent never kills it; there is no override",
                pid=ref.pid,
                rule=rule,
            )
        if kill:
            try:
                ref.send_signal(0)
            except ProcessLookupError:
                raise _not_found(ref.pid) from None
            except PermissionError:
                raise _not_permitted(ref.pid) from None

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


def _validated(ref: ProcessRef) -> Report:
    with ref:
        report = Report(ref.identity, Outcome.VALIDATED, Step.GUARD)
        report.before = report.after = ref.memory()
        return report


def _not_found(pid: int) -> RpcError:
    return RpcError(
        _Reason.ERROR_REASON_PROCESS_NOT_FOUND,
        f"no process has pid {pid}",
        "it is gone, or in another PID namespace than the agent",
        pid=pid,
    )


def _not_permitted(pid: int) -> RpcError:
    return RpcError(
        _Reason.ERROR_REASON_NOT_PERMITTED,
        f"the agent's user may not signal process {pid}; nothing was signalled",
        "run the agent as root or with CAP_KILL, or as the user of the process",
        pid=pid,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
