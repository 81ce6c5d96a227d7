"""Cgroups as slurmd makes them, with real processes in them, and processes that look like its own: without a Slurm."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Controller
from support import lab

#: Calls itself what it is told to, starts so many children as a user, says their pids, and waits.
_DAEMON = """
import os, sys
name, count, uid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
children = []
for _ in range(count):
    ready, says = os.pipe()
    child = os.fork()
    if not child:
        os.setresuid(uid, uid, uid)
        os.execv("/bin/sleep", ["sleep", "1000"])
    os.close(says)
    os.read(ready, 1)  # the execv has closed it
    children.append(child)
print(*children, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A process of root's that calls itself ``slurmd`` or ``slurmstepd``."""

    pid: int
    children: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a job: its cgroup in each hierarchy in which Slurm would make one."""

    job: int
    node: str
    groups: tuple[lab.Cgroup, ...]

    def add(self, pid: int, *below: str) -> None:
        """Move a process into the step, or into a cgroup below it."""
        for group in self.groups:
            lab.Cgroup(group.path.joinpath(*below), group.version).add(pid)

    @property
    def path(self) -> str:
        """Path of the job's cgroup in the hierarchy that counts memory, else in the first."""
        return _shown(self.groups[0].path.parent)


def _shown(path: Path) -> str:
    for controller in ("memory", "freezer", "unified"):
        tree = cgroup_tree.tree(controller)
        if tree is not None and path.is_relative_to(tree.mount.path):
            return f"{tree.top.rstrip('/')}/{path.relative_to(tree.mount.path)}"
    raise AssertionError(path)


def node_name() -> str:
    """The name of a node that no other test has."""
    return f"lab-{uuid.uuid4().hex[:8]}"


@contextlib.contextmanager
def step(
    version: int, job: int, name: str = "0", *, node: str, uid: int = 0, controllers: tuple[Controller, ...] = ("memory", "freezer")
) -> Generator[Step]:
    """A step. v1: with ``task_0`` below it, in the hierarchies of ``controllers``; v2: with ``user/task_0`` and ``slurm``.

    Raises Unavailable where this machine has no such hierarchy, or root is needed.
    """
    lab.need_root("a cgroup at the top")
    if version == 1:
        roots = [_root(1, controller) for controller in controllers]
        where, below = f"slurm_{node}/uid_{uid}/job_{job}/step_{name}", ["task_0"]
    else:
        roots = [_root(2, "unified")]
        where, below = f"system.slice/{node}_slurmstepd.scope/job_{job}/step_{name}", ["user/task_0", "slurm"]
    with contextlib.ExitStack() as made:
        for root in roots:
            for each in below:
                made.enter_context(_directories(root, f"{where}/{each}"))
        yield Step(job, node, tuple(lab.Cgroup(root / where, version) for root in roots))


@contextlib.contextmanager
def daemon(name: str, *, title: str = "", children: int = 0, uid: int = 0) -> Generator[Daemon]:
    """A process that calls itself ``name``, with ``title`` in its command line, and children of a user."""
    lab.need_root("a process of root")
    command = [title or name, "-c", _DAEMON, name, str(children), str(uid)]
    with subprocess.Popen(command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        pids: list[int] = []
        try:
            pids = [int(pid) for pid in process.stdout.readline().split()]
            yield Daemon(process.pid, tuple(pids))
        finally:
            for pid in pids:
                if _parent(pid) == process.pid:
                    os.kill(pid, 9)
            process.stdin.close()


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    return 0


def _root(version: int, controller: Controller) -> Path:
    tree = cgroup_tree.tree(controller)
    if tree is None or tree.version != version or not os.access(tree.mount.path, os.W_OK):
        raise lab.Unavailable(f"no cgroup v{version} hierarchy with {controller} can be written here")
    return Path(tree.mount.path)


@contextlib.contextmanager
def _directories(root: Path, path: str) -> Generator[None]:
    made: list[Path] = []
    here = root
    try:
        for name in path.split("/"):
            here /= name
            try:
                here.mkdir()
            except FileExistsError:
                continue
            except OSError as why:
                raise lab.Unavailable(f"{here}: {why.strerror}") from None
            made.append(here)
        yield
    finally:
        for each in reversed(made):
            lab.until(partial(_removed, each), f"{each} can be removed")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True
