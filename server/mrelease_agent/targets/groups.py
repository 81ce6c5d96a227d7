"""A container, a pod or a cgroup, as a caller names it, to the groups whose processes are meant: from cgroup paths alone.

Nothing is asked but the kernel: no runtime's socket, no API server. Searching takes some 25 us a cgroup of the node, so it belongs on a
thread. Every group that is returned is open and the caller's to close; none of them holds what must never be killed as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.targets.cgroup_path import Membership, describe
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.group_errors import (
    AmbiguousGroupError,
    Field,
    GroupNotFoundError,
    InvalidGroupError,
    RefusedGroupError,
    UnreadableGroupError,
)
from mrelease_agent.targets.refusals import readable, refuse_protected, refuse_runtime, unreadable
from mrelease_agent.targets.sandbox import sandboxes

_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_UID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
#: PATH_MAX and NAME_MAX of linux/limits.h, in bytes.
_LONGEST_PATH: Final = 4096
_LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's groups; close() or ``with`` closes those that are open."""

    uid: str
    #: Canonical path of the pod's own cgroup.
    path: str
    #: The containers that are meant, each with all below its cgroup: never the sandbox.
    containers: tuple[Group, ...]
    #: Ids of the pod's sandbox containers, see sandbox.py.
    sandboxes: frozenset[str]

    def close(self) -> None:
        """Close the groups; harmless when repeated."""
        for group in self.containers:
            group.close()

    def __enter__(self) -> Pod:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def membership(proc: int, tree: Tree | None = None) -> Membership:
    """Say to which container and pod a process belongs, given a directory fd of procfs.open_process(). Raises ProcessGoneError."""
    hierarchy = tree or cgroup_tree.tree("memory")
    path = hierarchy.path_of(proc) if hierarchy else None
    return describe(path or "/")


def container(id_: str, tree: Tree | None = None, field: Field = "container.id") -> Group:
    """Find a container by its id: all 64 hexadecimal digits, or 12 or more of them from the start where only one container has them.

    ``field`` is where the id is from, for errors.

    Raises InvalidGroupError, GroupNotFoundError, AmbiguousGroupError, RefusedGroupError (sandbox, agent, ...), UnreadableGroupError.
    """
    if not _ID.fullmatch(id_):
        raise InvalidGroupError(field, id_, "is not a container id", "give 12 to 64 hexadecimal digits in lower case, without a prefix")
    hierarchy = _hierarchy(field, id_, tree)
    found: dict[str, list[str]] = {}
    for path, known in _search(hierarchy, field, id_):
        if known.container_path == path and known.container_id.startswith(id_):
            found.setdefault(known.container_id, []).append(path)
    if len(found) > 1:
        raise AmbiguousGroupError(field, id_, tuple(sorted(found)), "give more digits of the id")
    paths = [path for each in found.values() for path in each]
    path = _only(hierarchy, field, id_, paths)
    group = _open(hierarchy, path, field, id_)
    with _closed_on_error(group):
        refuse_protected(group, field, id_)
        _refuse_sandbox(group, field, id_)
    return group


def pod(uid: str, containers: Collection[str] = (), tree: Tree | None = None) -> Pod:
    """Find a pod by its uid, as the API server has it, with all of its containers but the sandbox, or with those named alone.

    Static pods have two uids: meant is the one that the annotation kubernetes.io/config.hash shows. ``containers`` are ids as for
    container(). A pod whose containers have all ended, or whose sandbox alone is left, is found, without containers.

    Raises InvalidGroupError, GroupNotFoundError (also for a container that is not the pod's), AmbiguousGroupError, RefusedGroupError,
    UnreadableGroupError.
    """
    field: Field = "pod.uid"
    if not _UID.fullmatch(uid):
        raise InvalidGroupError(field, uid, "is not a pod uid", "give metadata.uid of the pod, in lower case")
    for id_ in containers:
        if not _ID.fullmatch(id_):
            raise InvalidGroupError("pod.containers", id_, "is not a container id", "give 12 to 64 hexadecimal digits in lower case")
    hierarchy = _hierarchy(field, uid, tree)
    paths = [path for path, known in _search(hierarchy, field, uid) if known.pod_path == path and known.pod_uid == uid]
    path = _only(hierarchy, field, uid, paths)
    with contextlib.ExitStack() as opened:
        groups = [opened.enter_context(group) for group in _containers(hierarchy, uid, path, field, uid)]
        with readable(field, uid):
            spared = sandboxes(groups)
        chosen = _choose(groups, containers, spared)
        for group in chosen:
            refuse_protected(group, field, uid)
        opened.pop_all()
    for group in groups:
        if group not in chosen:
            group.close()
    return Pod(uid, path, tuple(chosen), spared)


def cgroup(path: str, tree: Tree | None = None) -> Group:
    """Open a cgroup by its path in the hierarchy that carries memory, as ``/proc/PID/cgroup`` shows it; see Tree for where that has "..".

    A pod, or what holds pods, is refused, because it holds sandboxes too; so is what holds the parent of a container's process: a shim,
    a runtime, docker's or containerd's service.

    Raises InvalidGroupError, GroupNotFoundError, RefusedGroupError, UnreadableGroupError.
    """
    field: Field = "cgroup.path"
    problem = malformed(path)
    if problem:
        raise InvalidGroupError(field, path, problem, "give an absolute path as /proc/PID/cgroup shows it, without a trailing slash")
    hierarchy = _hierarchy(field, path, tree)
    if path in ("/", hierarchy.top):
        raise RefusedGroupError(field, path, "root")
    group = _open(hierarchy, path, field, path)
    with _closed_on_error(group), readable(field, path):
        if group.threaded():
            raise RefusedGroupError(field, path, "threaded")
        refuse_protected(group, field, path)
        if group.membership.monitors:
            raise RefusedGroupError(field, path, "monitor")
        if group.membership.container_id:
            _refuse_sandbox(group, field, path)
        elif group.membership.pod_uid or any(describe(below).pod_uid for below in group.below()):
            raise RefusedGroupError(field, path, "pod")
        else:
            refuse_runtime(group, field, path)
    return group


def _hierarchy(field: Field, value: str, tree: Tree | None) -> Tree:
    hierarchy = tree or cgroup_tree.tree("memory")
    if hierarchy is None:
        raise UnreadableGroupError(
            field,
            value,
            "cannot be looked for: no cgroup hierarchy is mounted where the agent runs",
            "mount the node's /sys/fs/cgroup there (a hostPath volume, for a pod)",
        )
    return hierarchy


def _search(hierarchy: Tree, field: Field, value: str) -> Iterator[tuple[str, Membership]]:
    """Describe every cgroup of the node but those below a pod's containers, which are none of their own."""

    def enter(path: str) -> bool:
        known = describe(path)
        return not (known.pod_uid and known.container_id)

    with readable(field, value):
        for path, _ in hierarchy.walk(enter=enter):
            yield path, describe(path)


def _only(hierarchy: Tree, field: Field, value: str, paths: list[str]) -> str:
    """Choose the one path. What root made counts before what a user made, and what no container encloses before what one does.

    So nobody makes a container or a pod ambiguous by making cgroups of its name in a hierarchy that was delegated to him.
    """
    ranked: dict[tuple[int, bool], list[str]] = {}
    for path in paths:
        with contextlib.suppress(OSError), Group(hierarchy, path) as group:
            ranked.setdefault((group.membership.enclosing, group.owner() != 0), []).append(path)
    if not ranked:
        raise GroupNotFoundError(field, value, "is not on this node", "look where it runs: the agent serves its own node only")
    best = ranked[min(ranked)]
    if len(best) > 1:
        raise AmbiguousGroupError(field, value, tuple(best), "name one of the cgroups by its path")
    return best[0]


def _containers(hierarchy: Tree, uid: str, pod_path: str, field: Field, value: str) -> list[Group]:
    """Open the containers of a pod: children of its cgroup, or, where it has none, those whose unsplit names say so and that root made."""
    found: list[Group] = []
    with contextlib.ExitStack() as opened, readable(field, value):
        paths: list[str] = []
        if pod_path:
            below = hierarchy.walk(pod_path, enter=lambda path: path == pod_path)
            paths = [path for path, _ in below if describe(path).container_path == path]
        unsplit = not paths
        if unsplit:
            search = _search(hierarchy, field, value)
            paths = [path for path, known in search if known.container_path == path and known.pod_uid == uid and not known.pod_path]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                group = opened.enter_context(Group(hierarchy, path))
                if not unsplit or group.owner() == 0:
                    found.append(group)
                else:
                    group.close()
        opened.pop_all()
    return found


def is_sandbox(group: Group, field: Field = "container.id", value: str = "") -> bool:
    """Whether a container, or what is in it, is its pod's sandbox. Raises UnreadableGroupError, GroupNotFoundError."""
    known = group.membership
    if not known.pod_uid:
        return False
    with contextlib.ExitStack() as opened:
        siblings = [opened.enter_context(each) for each in _containers(group.tree, known.pod_uid, known.pod_path, field, value)]
        with readable(field, value):
            return known.container_id in sandboxes(siblings)
    return False


def _refuse_sandbox(group: Group, field: Field, value: str) -> None:
    if is_sandbox(group, field, value):
        raise RefusedGroupError(field, value, "sandbox")


def _choose(groups: list[Group], ids: Collection[str], spared: frozenset[str]) -> list[Group]:
    if not ids:
        return [group for group in groups if group.membership.container_id not in spared]
    chosen: list[Group] = []
    for id_ in ids:
        found = [group for group in groups if group.membership.container_id.startswith(id_)]
        if not found:
            raise GroupNotFoundError("pod.containers", id_, "is no running container of the pod", "list the pod's processes")
        if len(found) > 1:
            candidates = tuple(group.membership.container_id for group in found)
            raise AmbiguousGroupError("pod.containers", id_, candidates, "give more digits of the id")
        if found[0].membership.container_id in spared:
            raise RefusedGroupError("pod.containers", id_, "sandbox")
        if found[0] not in chosen:
            chosen.append(found[0])
    return chosen


def malformed(path: str) -> str:
    """Why a text can be no path of a cgroup; empty where it can."""
    if not path.startswith("/"):
        return "is not absolute"
    if len(path.encode("utf-8", "surrogateescape")) >= _LONGEST_PATH:
        return f"is longer than {_LONGEST_PATH - 1} bytes"
    for name in path[1:].split("/") if path != "/" else ():
        if name in ("", ".", ".."):
            return "has an empty component" if not name else f'has the component "{name}"'
        if any(ord(character) < 32 or ord(character) == 127 for character in name):
            return "has a control character"
        if len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
            return f"has a component longer than {_LONGEST_NAME} bytes"
    return ""


def _open(hierarchy: Tree, path: str, field: Field, value: str) -> Group:
    try:
        return Group(hierarchy, path)
    except FileNotFoundError:
        raise GroupNotFoundError(
            field, value, "is not on this node", "it may have ended: look at /proc/PID/cgroup of what is meant"
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.EXDEV):
            raise RefusedGroupError(field, value, "not-a-cgroup") from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise unreadable(field, value) from None
        raise


@contextlib.contextmanager
def _closed_on_error(group: Group) -> Generator[None]:
    try:
        yield
    except BaseException:
        group.close()
        raise
