"""A containerd of the bench's own, and victims in its containers: what `ctr task kill` is measured with."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import SkipTest

from bench.ground import Group
from bench.programs import Programs, wait_readable
from bench.scratch import scratch
from mrelease.demo.interrupts import uninterrupted
from mrelease.demo.processes import Child

_PATIENCE = 30.0
_NEEDED = {"containerd": "containerd", "ctr": "containerd", "runc": "runc", "unshare": "util-linux", "setpriv": "util-linux"}
#: What it does not need, and what would look for devices and networks of the machine.
_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{folder}/containerd.sock"
"""


class Containers:
    """containerd in a pid and a mount namespace of its own: when that ends, every shim and every container ends with it.

    Its folders and its socket are in a temporary directory, /run is its own. A context manager.
    """

    def __init__(self, programs: Programs) -> None:
        self._programs = programs
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._daemon: Child | None = None
        self._count = 0

    def __enter__(self) -> Containers:
        self._check()
        try:
            with uninterrupted():
                self._folder = self._stack.enter_context(scratch())
                (self._folder / "config.toml").write_text(_CONFIG.format(folder=self._folder))
                _make_root(self._folder / "rootfs", self._programs.victim)
                script = 'mount -t tmpfs tmpfs /run && exec containerd --config "$0" --log-level error'
                # unshare(1) does not hear SIGTERM while it waits for its child, so it ends by SIGKILL, and its child with it.
                own = ["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
                command = [shutil.which("setpriv") or "setpriv", *own, "sh", "-c", script, str(self._folder / "config.toml")]
                with (self._folder / "log").open("wb") as log:
                    self._daemon = Child("exec", *command, output=log)
                self._stack.callback(self._daemon.end)
            self._await_socket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with uninterrupted():
            self._stack.close()

    @contextmanager
    def hold(self, size: int, group: Group, *flags: str | int) -> Generator[tuple[int, int, str], None, None]:
        """A container in ``group`` whose one process is ``victim FLAGS hold SIZE``: its pid here, a pidfd, and the container's id."""
        assert self._folder is not None
        self._count += 1
        name = f"bench-{self._count}"
        ready = self._folder / "rootfs" / f"ready-{name}"
        os.mkfifo(ready)
        fifo = os.open(ready, os.O_RDWR | os.O_NONBLOCK)
        pidfd = -1
        try:
            root = str(self._folder / "rootfs")
            victim = ["/victim", "-r", f"/{ready.name}", *map(str, flags), "hold", str(size)]
            self.ctr("run", "--detach", "--null-io", "--rootfs", "--cgroup", group.path, root, name, *victim)
            if not wait_readable(fifo, _PATIENCE):
                raise RuntimeError(f"the victim in container {name} was not ready: {self._said()}")
            (pid,) = group.pids()
            pidfd = os.pidfd_open(pid)
            yield pid, pidfd, name
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ctr("task", "kill", "--signal", "SIGKILL", name)
            if pidfd >= 0:
                wait_readable(pidfd, _PATIENCE)
                os.close(pidfd)
            for command in (("task", "delete", "--force", name), ("container", "delete", name)):
                with contextlib.suppress(subprocess.CalledProcessError):
                    self.ctr(*command)
            os.close(fifo)
            ready.unlink()

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``ctr`` for this containerd."""
        assert self._folder is not None
        return ["ctr", "--address", str(self._folder / "containerd.sock"), *arguments]

    def ctr(self, *arguments: str) -> str:
        """Run ``ctr``. Raises subprocess.CalledProcessError."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=_PATIENCE, check=False)
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
        return done.stdout

    def _check(self) -> None:
        missing = sorted({package for tool, package in _NEEDED.items() if shutil.which(tool) is None})
        if missing:
            raise SkipTest(f"not installed: {', '.join(missing)}")
        if os.geteuid() != 0:
            raise SkipTest("containerd needs root")
        if not self._programs.static:
            raise SkipTest("the victim could not be linked statically: on Debian and Ubuntu: apt install libc6-dev")

    def _await_socket(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.ctr("version")
                return
            assert self._daemon is not None
            if self._daemon.has_exited(0.05) or time.monotonic() > deadline:
                raise SkipTest(f"containerd did not start: {self._said()}")

    def _said(self) -> str:
        assert self._folder is not None
        return " ".join((self._folder / "log").read_text(errors="replace").split()[-40:])


def _make_root(root: Path, victim: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy2(victim, root / "victim")
