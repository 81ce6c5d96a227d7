"""A container, pod or cgroup as a target: its groups, and their processes as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Generator, Iterable, Mapping

from mrelease.v1 import error_reason_pb2, target_pb2
from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.reaping.measuring import measure
from mrelease_agent.reaping.set_operation import Member
from mrelease_agent.rpc.custom_name import custom_text
from mrelease_agent.rpc.errors import RpcError, invalid
from mrelease_agent.targets import groups
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.group_errors import (
    AmbiguousGroupError,
    Field,
    GroupError,
    GroupNotFoundError,
    InvalidGroupError,
    RefusedGroupError,
    Rule,
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


def named(target: target_pb2.Target) -> tuple[Field, str]:
    """The field that names a target that is no process, and its value."""
    kind = target.WhichOneof("kind")
    if kind == "custom":
        return "custom", custom_text(target.custom)[:256]
    if kind == "container":
        return "container.id", target.container.id
    return ("pod.uid", target.pod.uid) if kind == "pod" else ("cgroup.path", target.cgroup.path)


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
    """The processes of open groups; see reaping.set_operation.Members.

    Where one of those that are there at first is protected, none is returned: who asks for all of a group cannot mean all but one.
    Protected ones that come later are left out, because others have been signalled then.
    """

    def __init__(self, opened: list[Group], target: target_pb2.Target, protection: Protection) -> None:
        self.groups = opened
        #: Each group is a container, which has a first process that the others are told by.
        self._containers = not target.HasField("cgroup")
        self._named = named(target)
        self._protection = protection
        self._looked = False
        #: Index of the group that each process was found in, by pid.
        self._found_in: dict[int, int] = {}
        #: The processes that were returned, by pid.
        self._known: dict[int, ProcessRef] = {}

    @property
    def is_accounted(self) -> bool:
        """Whether what all of it releases is charged to its groups."""
        return True

    async def fresh(self) -> list[Member]:
        """Members that were not returned before, opened and measured on a thread: a thousand take some 80 ms.

        Raises RefusedGroupError the first time; OSError for limits.
        """
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
        return await asyncio.to_thread(self._join, pids)

    async def kill_all(self) -> bool:
        """Write cgroup.kill of every group; false where one has none."""
        killed = await asyncio.to_thread(lambda: [group.kill() for group in self.groups])
        return all(killed)

    def _fresh(self) -> list[Member]:
        with contextlib.ExitStack() as opened:
            refs: list[ProcessRef] = []
            listed: dict[int, str] = {}
            for index, group in enumerate(self.groups):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile: it was empty
                    known = {ref.pid for ref in refs}  # by a group of another hierarchy
                    found = self._open([pid for pid in self._strangers(group.members()) if pid not in known], opened)
                    # Listed after its pidfd was opened, and not reaped after that: what was listed is this process and no later one.
                    places = group.places() if found else {}
                    mine = [ref for ref in found if self._is_target(ref, group, places.get(ref.pid))]
                    self._found_in.update((ref.pid, index) for ref in mine)
                    refs += mine
                    listed.update({ref.pid: self._place(ref, group, places.get(ref.pid)) for ref in mine})
            others = self._others(opened, {ref.pid for ref in refs})
            listed.update({ref.pid: self._place(ref, None, None) for ref in others})
            refs += others
            self._looked = True
            return self._measured(refs, opened, listed)

    def _others(self, opened: contextlib.ExitStack, listed: Collection[int]) -> list[ProcessRef]:  # noqa: ARG002
        """Further processes, opened and to be killed, that are in no group; ``listed``: who has been found already."""
        return []

    def _join(self, pids: Collection[int]) -> list[Member]:
        with contextlib.ExitStack() as opened:
            return self._measured(
                [ref for ref in self._open(self._strangers(pids), opened) if self._is_target(ref, None, None)], opened, {}
            )

    def _strangers(self, pids: Iterable[int]) -> list[int]:
        """Those who were not returned before."""
        return [pid for pid in pids if pid not in self._known or not self._known[pid].has_pid()]

    @staticmethod
    def _open(pids: list[int], opened: contextlib.ExitStack) -> list[ProcessRef]:
        """Refer to processes; has_pid() is to be asked before they are used."""
        refs: list[ProcessRef] = []
        opened.callback(_close, refs)
        for pid in pids:
            with contextlib.suppress(ProcessGoneError, NotALeaderError):
                refs.append(ProcessRef.open(pid, checked=False))
        return refs

    def _is_target(self, ref: ProcessRef, group: Group | None, place: str | None) -> bool:
        """Whether it is to be killed; closed if not. Where there is a ``group``, ``place`` is where in it the process was listed."""
        try:
            if self._is_member(ref, group, place) and not ref.stat.kernel_thread:
                rule = self._rule(ref, group, place)
                if rule is None:
                    return True
                if not self._looked:
                    raise self._refusal(rule, ref.pid)
        except ProcessGoneError:
            pass
        ref.close()
        return False

    def _rule(self, ref: ProcessRef, group: Group | None, place: str | None) -> Rule | None:  # noqa: ARG002
        """The rule that protects a process."""
        return self._protection.rule(ref, place)

    def _refusal(self, rule: Rule, pid: int) -> Exception:
        """Why nothing of it is killed."""
        return RefusedGroupError(*self._named, rule, pid)

    def _place(self, ref: ProcessRef, group: Group | None, place: str | None) -> str:  # noqa: ARG002
        """The cgroup that lists it, in the hierarchy that counts memory."""
        return place or ""

    @staticmethod
    def _is_member(ref: ProcessRef, group: Group | None, place: str | None) -> bool:
        if not ref.has_pid():
            return False
        if group is None:
            return True
        # v1 lists a process wherever one of its threads is.
        return place is not None and (group.tree.version == 2 or ref.stat.threads == 1 or group.holds(ref.proc))

    def _measured(self, refs: list[ProcessRef], opened: contextlib.ExitStack, listed: Mapping[int, str]) -> list[Member]:
        members = [Member(ref, measured, listed.get(ref.pid, "")) for ref, measured in zip(refs, measure(refs), strict=True)]
        self._known.update((ref.pid, ref) for ref in refs)
        opened.pop_all()
        return members


def _close(refs: Iterable[ProcessRef]) -> None:
    for ref in refs:
        ref.close()
