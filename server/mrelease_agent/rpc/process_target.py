"""One process as a target: opened, verified, and refused where it is never killed."""

from __future__ import annotations

import asyncio

from mrelease.v1 import error_reason_pb2, target_pb2
from mrelease_agent.guard.protected import Protection, remedy
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.rpc.errors import RpcError, invalid
from mrelease_agent.rpc.group_target import told
from mrelease_agent.targets.process import IdentityMismatchError, resolve, resolve_in_container

_Reason = error_reason_pb2.ErrorReason


async def admitted(
    process: target_pb2.ProcessTarget, protection: Protection, *, kill: bool, inode_known: bool, field: str = "target"
) -> ProcessRef:
    """admit(), on a thread where a container has to be looked for; nothing stays open where the caller goes away meanwhile."""
    if not process.container_id:
        return admit(process, protection, kill=kill, inode_known=inode_known, field=field)
    search = asyncio.ensure_future(asyncio.to_thread(admit, process, protection, kill=kill, inode_known=inode_known, field=field))
    try:
        return await asyncio.shield(search)
    except asyncio.CancelledError:
        search.add_done_callback(_close)
        raise


def _close(search: asyncio.Future[ProcessRef]) -> None:
    if not search.cancelled() and search.exception() is None:
        search.result().close()


def admit(process: target_pb2.ProcessTarget, protection: Protection, *, kill: bool, inode_known: bool, field: str = "target") -> ProcessRef:
    """Open the process that a target names, and check that it may be killed; walks the cgroups where a container numbers it.

    ``field`` is the path of the target in the request. Raises RpcError; OSError for limits.
    """
    ref = _resolve(process, inode_known=inode_known, field=field)
    try:
        _guard(ref, protection, kill=kill)
    except BaseException:
        ref.close()
        raise
    return ref


def _resolve(process: target_pb2.ProcessTarget, *, inode_known: bool, field: str) -> ProcessRef:
    pid = process.pid
    if process.pidfd_inode and not inode_known:
        raise RpcError(
            _Reason.ERROR_REASON_FEATURE_UNAVAILABLE,
            f"{field}.process.pidfd_inode cannot be compared: this kernel gives every pidfd one inode number",
            "use start_time_ticks, or Linux 6.9 or newer",
            feature="FEATURE_PIDFD_INODE",
        )
    container = process.container_id
    try:
        if container:
            with told(field):
                return resolve_in_container(container, pid, pidfd_inode=process.pidfd_inode, start_time_ticks=process.start_time_ticks)
        return resolve(pid, pidfd_inode=process.pidfd_inode, start_time_ticks=process.start_time_ticks)
    except ProcessGoneError:
        raise (_not_in_container(pid, container, field) if container else not_found(pid)) from None
    except NotALeaderError as error:
        remedy = f"name its process, {error.leader}"
        raise invalid(f"{field}.process.pid", f"{pid} is a thread of a process", remedy) from None
    except IdentityMismatchError as error:
        raise RpcError(
            _Reason.ERROR_REASON_IDENTITY_MISMATCH,
            f"another process has pid {pid}: {error.field} is {error.actual}, not {error.expected}; nothing was signalled",
            "the process that was meant is gone; list the processes again",
            pid=pid,
            field=f"{field}.process.{error.field}",
            expected=error.expected,
            actual=error.actual,
        ) from None


def _guard(ref: ProcessRef, protection: Protection, *, kill: bool) -> None:
    if ref.stat.kernel_thread:
        raise RpcError(
            _Reason.ERROR_REASON_KERNEL_THREAD,
            f"process {ref.pid} is a kernel thread: it would accept SIGKILL and ignore it",
            "find the process whose work it does",
            pid=ref.pid,
        )
    try:
        rule = protection.rule(ref)
    except ProcessGoneError:
        raise not_found(ref.pid) from None
    if rule is not None:
        raise RpcError(
            _Reason.ERROR_REASON_PROTECTED,
            f"process {ref.pid} is protected ({rule}); nothing was signalled",
            remedy(rule),
            pid=ref.pid,
            rule=rule,
        )
    if kill:
        try:
            ref.send_signal(0)
        except ProcessLookupError:
            raise not_found(ref.pid) from None
        except PermissionError:
            raise not_permitted(ref.pid) from None


def not_found(pid: int) -> RpcError:
    """NOT_FOUND for a pid that nobody has."""
    return RpcError(
        _Reason.ERROR_REASON_PROCESS_NOT_FOUND,
        f"no process has pid {pid}",
        "it is gone, or in another PID namespace than the agent",
        pid=pid,
    )


def _not_in_container(pid: int, container: str, field: str) -> RpcError:
    return RpcError(
        _Reason.ERROR_REASON_PROCESS_NOT_FOUND,
        f"no process of container {container[:12]} has pid {pid} there",
        "it is gone; a pid as the node numbers it goes without container_id",
        pid=pid,
        container_id=container,
        field=f"{field}.process.pid",
    )


def not_permitted(pid: int) -> RpcError:
    """PERMISSION_DENIED by the kernel."""
    return RpcError(
        _Reason.ERROR_REASON_NOT_PERMITTED,
        f"the agent's user may not signal process {pid}; nothing was signalled",
        "run the agent as root or with CAP_KILL, or as the user of the process",
        pid=pid,
    )


def not_dying(what: str, **metadata: str | int) -> RpcError:
    """FAILED_PRECONDITION: Release was asked for what is alive."""
    return RpcError(
        _Reason.ERROR_REASON_NOT_DYING,
        f"{what} is not dying; nothing was signalled",
        "Release only releases what someone else has killed: use KillAndRelease to kill it",
        **metadata,
    )
