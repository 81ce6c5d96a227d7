"""Namespace and name of a pod by its uid, from the node alone: the directories in which kubelet keeps the logs of pods.

kubelet makes ``/var/log/pods/NAMESPACE_NAME_UID`` for every pod, whatever the runtime, and removes it with the pod (kubelet's
kuberuntime/helpers.go, BuildPodLogsDirectory; static pods have the uid there that their cgroup has). None of the three can contain ``_``,
so the name of a directory has one meaning.

Who may write there can rename pods. Those are root and who has that directory from a hostPath volume that is not read-only, which is a
known way to become root of the node. So what others than root could have made is not believed, and of a uid that two directories claim
nothing is known: whoever adds a directory takes a pod's name away, and gives it none.
"""

from __future__ import annotations

import os
import re
import stat
import time
from typing import Final

#: Namespaces are DNS labels, names of pods DNS subdomains (pkg/apis/core/validation); uids as in cgroup_path.py.
_ENTRY: Final = re.compile(
    r"(?P<namespace>[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)_(?P<name>[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)_"
    r"(?P<uid>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})"
)
#: A directory's time is that of a clock tick, or of a second on some file systems: what is younger may change without a new one.
_SETTLED: Final = 2_000_000_000


class PodNamesOnNode:
    """The names, as the directory says them now. Calling it with a uid takes some 3 us, and after a change some 0.3 ms for 100 pods.

    Belongs to no thread: what it remembers is replaced as a whole. Raises nothing: where there is no directory, or one that others than
    root and the agent's user can write, no pod has a name.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        #: Device, inode and time of the directory, and whose directories were found in it, by uid; None for uids that several claim.
        self._known: tuple[tuple[int, int, int] | None, dict[str, str | None]] = (None, {})

    def __call__(self, uid: str) -> tuple[str, str] | None:
        """Namespace and name of a pod; None where the node does not tell."""
        try:
            fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            found = os.fstat(fd)
            if not _trusted(found):
                return None
            stamp = (found.st_dev, found.st_ino, found.st_mtime_ns)
            known, entries = self._known
            if known != stamp:
                # Before the reading: what happens meanwhile makes it too young to be remembered.
                settled = time.time_ns() - found.st_mtime_ns > _SETTLED
                entries = _entries(self._directory, found)
                self._known = (stamp if settled else None, entries)
            entry = entries.get(uid)
            if entry is None or not _trusted(os.stat(entry, dir_fd=fd, follow_symlinks=False)):
                return None
        except OSError:
            return None
        finally:
            os.close(fd)
        namespace, name, _ = entry.split("_")
        return namespace, name


def _entries(directory: str, expected: os.stat_result) -> dict[str, str | None]:
    """Names of the directories by the uid that they end with. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(fd), expected):  # replaced meanwhile
            return {}
        names = os.listdir(fd)
    finally:
        os.close(fd)
    entries: dict[str, str | None] = {}
    for name in names:
        if match := _ENTRY.fullmatch(name):
            entries[match["uid"]] = None if match["uid"] in entries else name
    return entries


def _trusted(found: os.stat_result) -> bool:
    """Whether it is a directory that nobody but root and the agent's user can have made or can add to."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
