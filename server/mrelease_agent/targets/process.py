"""A process target: its pid to a process reference, with the identity that the caller gave verified."""

from __future__ import annotations

from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets import groups
from mrelease_agent.targets.group import numbers_in_container, pid_numbers
from mrelease_agent.targets.group_errors import Field
from mrelease_agent.targets.refusals import readable


class IdentityMismatchError(Exception):
    """Another process has the pid: ``field`` differs."""

    def __init__(self, field: str, expected: int, actual: int) -> None:
        super().__init__(field, expected, actual)
        self.field = field
        self.expected = expected
        self.actual = actual


def resolve(pid: int, *, pidfd_inode: int = 0, start_time_ticks: int = 0) -> ProcessRef:
    """Open a reference to the process with ``pid`` and compare what else is known of it; 0 is not compared.

    Raises ProcessGoneError, NotALeaderError, IdentityMismatchError, OSError (limits of the agent's process).
    """
    ref = ProcessRef.open(pid)
    for field, expected, actual in (
        ("pidfd_inode", pidfd_inode, ref.inode),
        ("start_time_ticks", start_time_ticks, ref.stat.start_time),
    ):
        if expected and expected != actual:
            ref.close()
            raise IdentityMismatchError(field, expected, actual)
    return ref


def resolve_in_container(
    container_id: str, pid: int, *, pidfd_inode: int = 0, start_time_ticks: int = 0, tree: Tree | None = None
) -> ProcessRef:
    """Open a reference to the process that a container numbers ``pid``, and compare as resolve() does.

    A pid is only a number until the pidfd is open: then the process has to be in the container still, under that number. Walks the
    hierarchy: belongs on a thread.

    Raises what groups.container() raises, with the field "process.container_id"; AmbiguousGroupError ("process.pid"); ProcessGoneError;
    IdentityMismatchError; OSError (limits of the agent's process).
    """
    field: Field = "process.container_id"
    with groups.container(container_id, tree, field) as group, readable(field, container_id):
        numbers = numbers_in_container(group, pid)
        try:
            ref = resolve(numbers[0], pidfd_inode=pidfd_inode, start_time_ticks=start_time_ticks)
        except NotALeaderError:  # the pid was recycled for a thread
            raise ProcessGoneError from None
        try:
            if group.holds(ref.proc) and pid_numbers(ref.proc) == numbers:
                return ref
        except BaseException:
            ref.close()
            raise
        ref.close()
        raise ProcessGoneError
