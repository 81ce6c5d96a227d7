"""Makes docs/img/top.svg: a real run of ``mrelease top`` on a real agent, in a PID namespace of its own with neutral names.

``python -m support.top_picture FILE``, as root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from textual.pilot import Pilot

from mrelease.cli.top.app import TopApp
from mrelease.cli.top.source import Query
from mrelease.cli.where import Where
from support import lab
from support.agent import running_agent
from support.lab.cgroups import cgroup_below
from support.lab.child import MIB, SCRIPTS

SIZE = (112, 24)
FIRST_PID = 4700
SAMPLES = 24
PATIENCE = 120.0
HOLD = """
import mmap, os, sys
anon, shared, user = map(int, sys.argv[1:])
kinds = ((anon, mmap.MAP_PRIVATE), (shared, mmap.MAP_SHARED))
held = [mmap.mmap(-1, size, flags=kind | mmap.MAP_ANONYMOUS) for size, kind in kinds if size]
for memory in held:
    memory.write(b"\\1" * len(memory))
os.setresuid(user, user, user)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def process(folder: Path, name: str, group: lab.Cgroup, *arguments: str) -> Generator[int]:
    """A Python process that is called something else."""
    interpreter = folder / name
    if not interpreter.exists():
        interpreter.symlink_to(Path(sys.executable).resolve())

    def enter() -> None:
        group.add(os.getpid())

    command = [str(interpreter), "-E", "-s", "-S", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=enter) as child:  # noqa: PLW1509 - no threads
        try:
            assert child.stdout is not None
            assert child.stdout.readline()
            yield child.pid
        finally:
            child.kill()


@dataclass(frozen=True, slots=True)
class Actor:
    """A process of the scene, in a pod of its own; sizes in MiB."""

    name: str
    user: int
    qos: str
    anon: int
    shared: int = 0


ACTORS = (
    Actor("trainer", 33, "besteffort/", 1024),
    Actor("notebook", 65534, "burstable/", 384),
    Actor("worker", 33, "besteffort/", 160),
    Actor("postgres", 1, "", 96, 256),
    Actor("redis", 1, "burstable/", 64),
    Actor("gateway", 65534, "burstable/", 24),
)


def pod(parent: lab.Cgroup, qos: str, numbers: random.Random) -> contextlib.AbstractContextManager[lab.Cgroup]:
    """A container's cgroup, named as Kubernetes and containerd do."""
    uid = uuid.UUID(bytes=numbers.randbytes(16), version=4)
    return cgroup_below(parent, f"kubepods/{qos}pod{uid}/{numbers.randbytes(32).hex()}")


@contextlib.contextmanager
def scene(folder: Path) -> Generator[int]:
    """Pods with processes in them, one of which makes memory pressure; yields the pid of the one to kill."""
    with contextlib.ExitStack() as stack:
        parent = stack.enter_context(lab.memory_cgroup())
        numbers = random.Random(4)
        pids: list[int] = []
        for actor in ACTORS:
            group = stack.enter_context(pod(parent, actor.qos, numbers))
            sizes = (str(size) for size in (actor.anon * MIB, actor.shared * MIB, actor.user))
            pids.append(stack.enter_context(process(folder, actor.name, group, "-c", HOLD, *sizes)))
        tight = stack.enter_context(pod(parent, "besteffort/", numbers))
        tight.write("memory.max" if tight.version == 2 else "memory.limit_in_bytes", str(16 * MIB))
        file = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder))
        file.truncate(64 * MIB)
        told = json.dumps({"file": file.name, "size": 64 * MIB, "cgroups": []})
        stack.enter_context(process(folder, "indexer", tight, str(SCRIPTS / "thrasher.py"), told))
        yield pids[0]


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Let the application run until this is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the picture does not come about"
        await pilot.pause(0.05)


async def take(address: str, victim: int) -> str:
    """Watch for a while, kill the victim, and return the picture."""
    app = TopApp(Where(address), Query(timedelta(milliseconds=500), None, 100))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.samples >= SAMPLES)
        await pilot.press("slash", *str(victim), "enter", "k")
        await until(pilot, lambda: not app.screen.query("#kill:disabled") and bool(app.screen.query("#kill")))
        await pilot.press("y")
        await until(pilot, lambda: any("back in" in line for line in app.messages))
        await pilot.press("escape")
        seen = app.samples
        await until(pilot, lambda: app.samples >= seen + 3)
        return app.export_screenshot(title="mrelease top")


def main(picture: Path) -> None:
    """Take the picture, inside of the namespace."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(FIRST_PID))
    Path("/proc/self/comm").write_text("init")
    # Below /tmp: every user may enter it, and its path is not long.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with running_agent(folder / "run", "--node-name", "node7") as agent, scene(folder) as victim:
            svg = asyncio.run(take(agent.address, victim))
    # Nothing of it is fetched from anywhere.
    svg = re.sub(r"@font-face \{.*?\}\s*|<!--.*?-->", "", svg, flags=re.DOTALL)
    picture.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    if os.getpid() == 1:
        main(Path(sys.argv[1]))
    else:
        command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "support.top_picture", sys.argv[1]]
        os.execvp(command[0], command)
