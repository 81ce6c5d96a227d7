"""A container, pod or cgroup as a target: its groups, and their processes as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Generator

from mrelease.v1 import error_reason_pb2, target_pb2
from mrelease_agent.guard.protected import protection
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError, start_time
from mrelease_agent.reaping.operation import measure
from mrelease_agent.reaping.set_operation import Member
from mrelease_agent.rpc.errors import RpcError, invalid
from mrelease_agent.targets import groups
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.group_errors import (
    AmbiguousGroupError,
    GroupError,
    GroupNotFoundError,
    InvalidGroupError,
    RefusedGroupError,
)

_Reason = error_reason_pb2.ErrorReason


@contextlib.contextmanager
def told(prefix: str) -> Generator[None, None, None]:
    """Turn errors of the search into those of the contract; ``prefix`` is the field that holds the target."""
    try:
        yield
    except InvalidGroupError as error:
        raise invalid(f"{prefix}.{error.field}", error.problem, error.remedy) from None
    except GroupError as error:
        field = f"{prefix}.{error.field}"
        message = f"{field} {error.problem}; nothing was signalled"
        value = error.value[:256]
        if isinstance(error, GroupNotFoundError):
            raise RpcError(_Reason.ERROR_REASON_TARGET_NOT_FOUND, message, error.remedy, field=field, value=value) from None
        if isinstance(error, AmbiguousGroupError):
            candidates = " ".join(error.candidates[:8])
            raise RpcError(
                _Reason.ERROR_REASON_TARGET_AMBIGUOUS, message, error.remedy, field=field, value=value, candidates=candidates
            ) from None
        if isinstance(error, RefusedGroupError):
            raise RpcError(
                _Reason.ERROR_REASON_PROTECTED, message, error.remedy, field=field, value=value, pid=error.pid, rule=error.rule
            ) from None
        raise RpcError(_Reason.ERROR_REASON_FEATURE_UNAVAILABLE, message, error.remedy, feature="FEATURE_MEMORY_CGROUP") from None


def find(target: target_pb2.Target) -> list[Group]:
    """Open the groups of a target that is no process; the caller closes them. Walks the hierarchy: belongs on a thread.

    Raises GroupError, see told().
    """
    kind = target.WhichOneof("kind")
    if kind == "container":
        return [groups.container(target.container.id)]
    if kind == "pod":
        return list(groups.pod(target.pod.uid, tuple(target.pod.containers)).containers)
    return [groups.cgroup(target.cgroup.path)]


def empty(prefix: str) -> RpcError:
    """NOT_FOUND for a target that exists and holds no process."""
    return RpcError(
        _Reason.ERROR_REASON_TARGET_NOT_FOUND,
        f"no process is in the {prefix}",
        "it has ended; nothing is left to do",
        field=prefix,
        value="",
    )


class GroupMembers:
    """The processes of open groups; see reaping.set_operation.Members."""

    def __init__(self, opened: list[Group], *, containers: bool) -> None:
        """``containers``: each group is one, which has a first process that the others are told by."""
        self._groups = opened
        self._containers = containers
        #: Index of the group that each process was found in, by pid.
        self._found_in: dict[int, int] = {}
        #: Start time of each process that was returned, by pid: with both it is not mistaken for a later one.
        self._known: dict[int, int] = {}

    async def fresh(self) -> list[Member]:
        """Members that were not returned before, opened and measured on a thread: a thousand take a quarter of a second."""
        return await asyncio.to_thread(self._fresh)

    def first(self, found: list[Member]) -> list[Member]:
        """See Members. Who stops a container tells its first process alone, as kubelet and docker do; a cgroup's are all told."""
        if not self._containers:
            return found
        oldest: dict[int, Member] = {}
        for member in sorted(found, key=lambda member: (member.ref.stat.start_time, member.ref.pid)):
            oldest.setdefault(self._found_in[member.ref.pid], member)
        return list(oldest.values())

    async def join(self, pids: Collection[int]) -> list[Member]:
        """See Members: children of processes that were moved out of the group before they were killed."""
        return await asyncio.to_thread(lambda: [member for pid in pids if (member := self._open(None, pid)) is not None])

    async def kill_all(self) -> bool:
        """Write cgroup.kill of every group; false where one has none."""
        killed = await asyncio.to_thread(lambda: [group.kill() for group in self._groups])
        return all(killed)

    def _fresh(self) -> list[Member]:
        found: list[Member] = []
        try:
            for index, group in enumerate(self._groups):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile: it was empty
                    members = [member for pid in group.members() if (member := self._open(group, pid)) is not None]
                    self._found_in.update((member.ref.pid, index) for member in members)
                    found += members
        except BaseException:
            for member in found:
                member.ref.close()
                self._known.pop(member.ref.pid, None)
            raise
        return found

    def _open(self, group: Group | None, pid: int) -> Member | None:
        if self._known.get(pid, -1) == start_time(pid):
            return None
        try:
            ref = ProcessRef.open(pid)
        except (ProcessGoneError, NotALeaderError):
            return None
        try:
            # Its pid may have become another process's since the group was listed.
            if (group is None or group.holds(ref.proc)) and not ref.stat.kernel_thread and protection(ref.stat) is None:
                member = Member(ref, measure(ref))
                self._known[pid] = ref.stat.start_time
                return member
        except BaseException:
            ref.close()
            raise
        ref.close()
        return None
