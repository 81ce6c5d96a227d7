"""A custom target: what its plugin names, opened, verified and judged like everything else, each process by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable
from typing import Any, Final

from mrelease.v1 import error_reason_pb2, target_pb2
from mrelease_agent.guard.protected import Protection, remedy
from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.reaping.set_operation import Member
from mrelease_agent.rpc.custom_name import custom_text
from mrelease_agent.rpc.errors import RpcError, invalid
from mrelease_agent.rpc.group_target import GroupMembers
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.group_errors import Rule
from mrelease_agent.targets.plugin_calls import PluginFailedError
from mrelease_agent.targets.plugin_kinds import Kinds, NoSuchKindError
from mrelease_agent.targets.plugins import (
    AmbiguousError,
    Found,
    FoundGroup,
    FoundProcess,
    InvalidAttributeError,
    NotHereError,
    Spare,
    TargetError,
)
from mrelease_agent.targets.process_facts import place_in, user_ids
from mrelease_agent.telemetry.logs import event

_Reason = error_reason_pb2.ErrorReason
_log = logging.getLogger("mrelease")
#: Seconds between two questions to a plugin: each finds nobody new, so each is twice as late as the one before.
_FIRST_PAUSE: Final = 0.01
_LAST_PAUSE: Final = 0.25

Ask = Callable[[], Coroutine[Any, Any, Found]]


class Located:
    """What a plugin has named, with its groups open; close() or ``with`` closes them."""

    def __init__(self, groups: list[Group], found: Found) -> None:
        self.groups = groups
        self.processes: tuple[FoundProcess, ...] = tuple(found.processes)
        self.spare: tuple[Spare, ...] = tuple(found.spare)

    def close(self) -> None:
        """Close the groups."""
        for group in self.groups:
            group.close()

    def __enter__(self) -> Located:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_kind(kinds: Kinds | None, target: target_pb2.Target, field: str) -> Kinds:
    """The plugins, where one has the kind. Raises RpcError (FAILED_PRECONDITION): that tells nothing of what is on the node."""
    kind = target.custom.kind
    try:
        if kinds is None:
            raise _no_kind(field, kind, "this agent has none", "name it in the agent's configuration (target_plugins)")
        kinds.check(kind)
    except NoSuchKindError as error:
        raise _no_kind(field, kind, error.offer.reason, error.offer.remedy) from None
    return kinds


async def locate(kinds: Kinds, target: target_pb2.Target, field: str) -> Located:
    """Ask the plugin, and open what it names. Raises RpcError; OSError for limits."""
    with told(target, field):
        found = await kinds.find(target.custom.kind, target.custom.attributes)
        if not found.groups and not found.processes:
            raise NotHereError("is not on this node", "look where it runs: the agent serves its own node only")
        return Located(await asyncio.to_thread(_open, found.groups), found)


@contextlib.contextmanager
def told(target: target_pb2.Target, field: str) -> Generator[None, None, None]:
    """Turn what plugins raise into errors of the contract; ``field`` is the path of the target in the request."""
    kind, where, value = target.custom.kind, f"{field}.custom", custom_text(target.custom)[:256]
    try:
        yield
    except NoSuchKindError as error:
        raise _no_kind(field, kind, error.offer.reason, error.offer.remedy) from None
    except PluginFailedError as error:
        raise _no_kind(field, kind, f"its plugin {error.problem}", "try again; the agent's log says why") from None
    except InvalidAttributeError as error:
        name = f'{where}.attributes["{error.attribute}"]' if error.attribute else f"{where}.attributes"
        raise invalid(name, error.problem or "is wrong", error.remedy) from None
    except NotHereError as error:
        message = f"{where} is not there: {error.problem}; nothing was signalled"
        raise RpcError(_Reason.ERROR_REASON_TARGET_NOT_FOUND, message, error.remedy, field=where, value=value) from None
    except AmbiguousError as error:
        message, candidates = f"{where} is ambiguous: {error.problem}; nothing was signalled", " ".join(error.candidates)
        raise RpcError(
            _Reason.ERROR_REASON_TARGET_AMBIGUOUS, message, error.remedy, field=where, value=value, candidates=candidates
        ) from None
    except TargetError as error:  # UnavailableError
        raise _no_kind(field, kind, error.problem or "it does not work here", error.remedy) from None


def _no_kind(field: str, kind: str, why: str, what_to_do: str) -> RpcError:
    message = f"{field}.custom.kind: there are no targets of kind {kind} here: {why}; nothing was signalled"
    return RpcError(_Reason.ERROR_REASON_TARGET_KIND_UNAVAILABLE, message, what_to_do, kind=kind)


def _open(found: Iterable[FoundGroup]) -> list[Group]:
    """Open groups; those that have gone meanwhile are left out. Raises PluginFailedError; OSError for limits."""
    with contextlib.ExitStack() as opened:
        groups: list[Group] = []
        for each in found:
            tree = cgroup_tree.tree(each.controller)
            if tree is None or each.path == tree.top:
                raise PluginFailedError("gave no answer that can be used", f"it named {each.path} in {each.controller}")
            try:
                groups.append(opened.enter_context(Group(tree, each.path)))
            except FileNotFoundError:
                continue
            except (NotADirectoryError, PermissionError) as error:
                raise PluginFailedError("gave no answer that can be used", f"{each.path}: {error.strerror}") from None
        opened.pop_all()
        return groups


class CustomMembers(GroupMembers):
    """The processes of a custom target; see reaping.set_operation.Members.

    Nothing is taken from the plugin but names. Who has not the start that it gave is another process, and left alone; each of the others is
    protected or not by the same rules as if it had been named by its pid.
    """

    def __init__(
        self, located: Located, target: target_pb2.Target, protection: Protection, again: Ask, *, inode_known: bool, field: str
    ) -> None:
        super().__init__(located.groups, target, protection)
        self._field = field
        self._named_processes = located.processes
        self._spare = located.spare
        self._names_processes = bool(located.processes)
        self._again = again if self._names_processes else None
        self._inode_known = inode_known
        self._memory = cgroup_tree.tree("memory")
        self._pause = _FIRST_PAUSE
        self._asked = time.monotonic()

    @property
    def is_accounted(self) -> bool:
        """Not where there are processes that are in none of its groups."""
        return not self._names_processes

    async def fresh(self) -> list[Member]:
        """See Members; from the second time on the plugin is asked again, where it names processes by themselves."""
        if self._looked and self._again is not None:
            await asyncio.sleep(self._asked + self._pause - time.monotonic())
            self._pause = min(self._pause * 2, _LAST_PAUSE)
            try:
                self._named_processes = tuple((await self._again()).processes)
            except (TargetError, PluginFailedError, NoSuchKindError) as error:
                if not isinstance(error, NotHereError):
                    event(_log, logging.WARNING, "target plugin not asked again", why=str(error))
                self._again, self._named_processes = None, ()
            self._asked = time.monotonic()
        found = await super().fresh()
        if found:
            self._pause = _FIRST_PAUSE
        return found

    def first(self, found: list[Member]) -> list[Member]:
        """See Members: all of them are told."""
        return found

    async def kill_all(self) -> bool:
        """See Members; only where all of each group is the target: whom it spares, and what its group does not hold, no kernel knows."""
        return False if self._spare or self._names_processes else await super().kill_all()

    def _others(self, opened: contextlib.ExitStack, listed: Collection[int]) -> list[ProcessRef]:
        starts = {each.pid: each for each in self._named_processes if each.pid not in listed}
        found: list[ProcessRef] = []
        for ref in self._open(self._strangers(starts), opened):
            if self._is(ref, starts[ref.pid]) and self._is_target(ref, None, None):
                found.append(ref)
            else:
                ref.close()
        return found

    def _is(self, ref: ProcessRef, named: FoundProcess) -> bool:
        if ref.stat.start_time != named.start_time_ticks:
            return False
        return not (named.pidfd_inode and self._inode_known) or ref.inode == named.pidfd_inode

    def _is_target(self, ref: ProcessRef, group: Group | None, place: str | None) -> bool:
        if not any(_is_spared(ref, each) for each in self._spare):
            return super()._is_target(ref, group, place)
        ref.close()
        return False

    def _rule(self, ref: ProcessRef, group: Group | None, place: str | None) -> Rule | None:
        # Of who exits v1 shows no cgroup: where it is known where it was, that decides; whoever else is asked for its own.
        known = self._place(ref, group, place) if ref.stat.exiting else ""
        return super()._rule(ref, group, known or None)

    def _place(self, ref: ProcessRef, group: Group | None, place: str | None) -> str:
        if self._memory is None:
            return ""
        if group is not None and group.tree.mount == self._memory.mount:
            return place or ""
        try:
            return place_in(self._memory, ref.proc)
        except ProcessGoneError:
            return ""

    def _refusal(self, rule: Rule, pid: int) -> Exception:
        field, value = f"{self._field}.custom", self._named[1]
        message = f"{field} holds process {pid}, which is protected ({rule}); nothing was signalled"
        return RpcError(_Reason.ERROR_REASON_PROTECTED, message, remedy(rule), field=field, value=value, pid=pid, rule=rule)


def _is_spared(ref: ProcessRef, spare: Spare) -> bool:
    try:
        return ref.stat.comm == spare.command and user_ids(ref.proc) == frozenset((spare.uid,))
    except ProcessGoneError:
        return False


async def custom_members(
    kinds: Kinds | None, target: target_pb2.Target, protection: Protection, *, inode_known: bool, field: str
) -> CustomMembers:
    """The members of a custom target, not listed yet; the caller closes its groups. Raises RpcError; OSError for limits."""
    plugins = check_kind(kinds, target, field)
    located = await locate(plugins, target, field)

    async def again() -> Found:
        return await plugins.find(target.custom.kind, target.custom.attributes)

    return CustomMembers(located, target, protection, again, inode_known=inode_known, field=field)


async def pids(kinds: Kinds, target: target_pb2.Target, field: str) -> list[int]:
    """Who is in a custom target now, for people to look at. Raises RpcError; OSError for limits."""
    with await locate(kinds, target, field) as located:
        return await asyncio.to_thread(_pids, located)


def _pids(located: Located) -> list[int]:
    starts = {each.pid: each.start_time_ticks for each in located.processes}
    grouped = {pid for group in located.groups for pid in group.members()}
    found: list[int] = []
    for pid in grouped | starts.keys():
        with contextlib.suppress(ProcessGoneError, NotALeaderError), ProcessRef.open(pid) as ref:
            if (pid in grouped or ref.stat.start_time == starts[pid]) and not any(_is_spared(ref, each) for each in located.spare):
                found.append(pid)
    return found
