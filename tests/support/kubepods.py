"""Pods as kubelet leaves them on a node, without a kubelet: their cgroups below one of the lab's, and their directories of logs."""

from __future__ import annotations

import secrets
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support import lab
from support.lab.cgroups import cgroup_below, in_hierarchy

SMALL = 2 * lab.MIB


@dataclass(frozen=True, slots=True)
class FakePod:
    """A pod of one container."""

    uid: str
    container: str
    #: That of the container.
    group: lab.Cgroup

    @property
    def cgroup(self) -> str:
        """Path of the container's cgroup, as /proc/PID/cgroup shows it."""
        return in_hierarchy(self.group)


class Kubepods:
    """A node's pods. ``logs`` is what /var/log/pods is there."""

    def __init__(self, root: lab.Cgroup, logs: Path, made: ExitStack) -> None:
        self.root = root
        self.logs = logs
        self._made = made
        logs.mkdir(mode=0o755, exist_ok=True)

    def pod(self, namespace: str, qos: str = "besteffort", parent: str = "kubepods") -> FakePod:
        """A pod without a process; without a ``namespace`` it has no directory of logs."""
        uid, container = str(uuid.uuid4()), secrets.token_hex(32)
        if namespace:
            (self.logs / f"{namespace}_worker_{uid}").mkdir(mode=0o755)
        below = "/".join(filter(None, [parent, qos, f"pod{uid}", container]))
        return FakePod(uid, container, self._made.enter_context(cgroup_below(self.root, below, ["memory"])))

    def victim(self, group: FakePod | lab.Cgroup | None, uid: int | None = None) -> lab.Victim:
        """A process in a pod, in a cgroup, or in none of the lab's."""
        within = [] if group is None else [group.group if isinstance(group, FakePod) else group]
        return self._made.enter_context(lab.live(SMALL, uid=uid, within=within))
