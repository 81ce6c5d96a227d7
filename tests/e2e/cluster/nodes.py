"""A node of the cluster on this machine, seen from the machine: its files, its processes by the machine's pids, its containers' memory."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.lab import Unavailable

_HERE = Path(__file__).resolve().parent
_MEMORY = Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A node. ``pid``: of its first process, as this machine numbers it; killing it is a crash of the node, `up` its reboot."""

    name: str
    pid: int

    @classmethod
    def of(cls, name: str) -> LocalNode:
        """A node that is up. Raises Unavailable."""
        state = Path(os.environ.get("E2E_STATE") or Path.home() / ".local" / "state" / "mrelease-e2e")
        try:
            pid = int((state / f"{name}.init").read_text().split()[0])
        except (OSError, IndexError):
            raise Unavailable(f"{name} is not up: {_HERE / 'up'}") from None
        return cls(name, pid)

    def path(self, path: str) -> Path:
        """A file of the node, such as a socket below a hostPath, as this machine can open it."""
        return Path(f"/proc/{self.pid}/root") / path.removeprefix("/")

    def run(self, *command: str, timeout: float = 60) -> str:
        """What a command inside of the node printed: ctr, ps, iptables. Raises subprocess.CalledProcessError."""
        inside = [str(_HERE / "in"), self.name, *command]
        return subprocess.run(inside, capture_output=True, text=True, timeout=timeout, check=True).stdout

    def cgroup(self, container: str) -> Path:
        """The memory cgroup of a container by its id. Raises FileNotFoundError."""
        for found in (_MEMORY / f"mrelease-{self.name}").glob(f"kubepods/**/{container}"):
            return found
        raise FileNotFoundError(f"no cgroup of container {container} on {self.name}")

    def pids(self, container: str) -> list[int]:
        """Processes of a container as this machine numbers them, those in cgroups that it made for itself too."""
        groups = [self.cgroup(container), *self.cgroup(container).glob("**/")]
        return sorted({int(line) for group in groups for line in (group / "cgroup.procs").read_text().split()})

    def charge(self, container: str) -> int:
        """Bytes that are charged to a container."""
        return int((self.cgroup(container) / "memory.usage_in_bytes").read_text())
