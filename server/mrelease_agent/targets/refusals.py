"""What is never killed as a whole, judged by the processes that a group holds and not by its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import MAX_CGROUPS, WalkLimitError
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets.cgroup_path import describe
from mrelease_agent.targets.group import Group, within
from mrelease_agent.targets.group_errors import Field, GroupNotFoundError, RefusedGroupError, Rule, UnreadableGroupError


def refuse_protected(group: Group, field: Field, value: str) -> None:
    """Refuse what holds pid 1, the agent, its ancestors or kernel threads. Raises RefusedGroupError, UnreadableGroupError."""
    for pid, rule in _protected():
        if _is_in(group, pid):
            raise RefusedGroupError(field, value, rule, pid)
    with readable(field, value):
        members = group.members()
    for pid in filter(_may_be_kernel_thread, members):
        with _existing(pid) as proc:
            if proc is not None and procfs.stat(proc).kernel_thread:
                raise RefusedGroupError(field, value, "kernel-thread", pid)


def _may_be_kernel_thread(pid: int) -> bool:
    """Kernel threads are in process group 0, that of kthreadd, as is nobody else whose group this PID namespace shows; getpgid(2).

    It takes a thirtieth of the time that a look at the flags takes.
    """
    try:
        return os.getpgid(pid) == 0
    except ProcessLookupError:
        return False
    except OSError:  # a security module's
        return True


def _protected() -> Iterator[tuple[int, Rule]]:
    yield 1, "init"
    yield os.getpid(), "agent"
    for pid in procfs.ancestors():
        if pid > 1:
            yield pid, "ancestor-of-agent"


def refuse_runtime(group: Group, field: Field, value: str) -> None:
    """Refuse what holds a process that is the parent of one in a container, but not in that container itself: a shim, a runtime.

    Raises RefusedGroupError; what Group.members() raises.
    """
    members = set(group.members())
    # Where no cgroup is below it, none of its members is in a container that is not its parent's, too.
    others = set(procfs.pids()) - (members if group.is_leaf() else set())
    for pid in sorted(others):
        if procfs.parent(pid) not in members:
            continue
        with _existing(pid) as proc:
            if proc is None:
                continue
            parent = procfs.stat(proc).ppid
            inside = parent in members and _container_of(group, proc)
            if inside and not _is_in(group, parent, inside):
                raise RefusedGroupError(field, value, "runtime", parent)


def _container_of(group: Group, proc: int) -> str:
    return describe(group.tree.path_of(proc) or "/").container_path


def _is_in(group: Group, pid: int, path: str = "") -> bool:
    """Whether a process is in the group, or in the group with another path of the same hierarchy."""
    with _existing(pid) as proc:
        found = None if proc is None else group.tree.path_of(proc)
        return found is not None and within(found, path or group.path)
    return False


@contextlib.contextmanager
def _existing(pid: int) -> Generator[int | None]:
    """Open ``/proc/PID``; None, and no error from within, where the process is gone."""
    proc = None
    try:
        with contextlib.suppress(ProcessGoneError):
            proc = procfs.open_process(pid)
        with contextlib.suppress(ProcessGoneError):
            yield proc
    finally:
        if proc is not None:
            os.close(proc)


@contextlib.contextmanager
def readable(field: Field, value: str) -> Generator[None]:
    """Say what limits of the search and missing permissions mean to the caller."""
    try:
        yield
    except WalkLimitError:
        problem = f"cannot be looked for: more than {MAX_CGROUPS} cgroups, or too deep ones"
        raise UnreadableGroupError(field, value, problem, "remove cgroups that are not used") from None
    except FileNotFoundError:
        raise GroupNotFoundError(field, value, "has gone", "nothing is left to do") from None
    except PermissionError:
        raise unreadable(field, value) from None


def unreadable(field: Field, value: str) -> UnreadableGroupError:
    """Say that the agent lacks permission to read what it has to."""
    return UnreadableGroupError(field, value, "may not be read by the agent", "run the agent as root, with CAP_DAC_READ_SEARCH")
