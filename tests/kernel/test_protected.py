"""What is never killed: told from facts of the kernel, on real processes that have them, and on others that only claim them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Client, Container, Pod, Process
from mrelease_agent.guard.protected import Additions, Protection
from mrelease_agent.linux.process import ProcessRef
from support import lab
from support.agent import PATIENCE, Agent, running_agent
from support.lab.cgroups import cgroup_below
from support.protection import KUBELET, SIZE, dies, new_pod, path_of, refused, rule

CONTAINERD = "/run/containerd/containerd.sock"


LISTEN = """
import os, signal, socket, sys
os.makedirs(os.path.dirname(sys.argv[1]), exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print(flush=True)
signal.pause()
"""


@pytest.fixture
def here() -> Generator[lab.Cgroup]:
    with lab.memory_cgroup() as group:
        yield group


# What a process says of itself


def test_a_process_that_calls_itself_kubelet_is_none(node: Client, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    for name in ("kubelet", "containerd", "dockerd", "crio", "conmon", "pause", "containerd-shim"):
        with subprocess.Popen([shutil.copy(sleep, tmp_path / name), "1000"]) as process:
            try:
                node.kill_and_release(Process(process.pid))
                assert process.wait(PATIENCE) == -9
            finally:
                process.kill()


# Sockets


@contextlib.contextmanager
def elsewhere(path: str, *prefix: str) -> Generator[int]:
    """The pid of a process that listens on ``path``, in mount and network namespaces of its own."""
    script = f'mount -t tmpfs tmpfs /{Path(path).parts[1]} && exec "$@"'
    # A Python that every user may run: the tests' own may be in somebody's home.
    program = [shutil.which("python3", path="/usr/bin:/bin") or sys.executable, "-c", LISTEN, path]
    command = [*prefix, "unshare", "--mount", "--net", "sh", "-c", script, "sh", *program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/") as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                assert process.stderr is not None
                raise lab.Unavailable(f"no namespaces: {process.stderr.read().decode().strip()[-200:]}")
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (CONTAINERD, "runtime"),
        (f"/run/containerd/s/{'a' * 64}", "runtime"),
        ("/var/run/docker.sock", "runtime"),
        ("/run/crio/crio.sock", "runtime"),
        (KUBELET, "kubelet"),
        ("/run/containerd/other.sock", None),
        ("/run/user/1000/run/containerd/containerd.sock", None),
    ],
)
def test_who_listens_on_the_socket_of_a_runtime_is_one(path: str, expected: str | None) -> None:
    lab.need_root("a mount namespace")
    with elsewhere(path) as pid:
        assert rule(pid) == expected


def test_the_socket_of_an_unprivileged_user_proves_nothing(node: Client) -> None:
    lab.need_root("another user's process")
    if not shutil.which("setpriv"):
        raise lab.Unavailable("no setpriv")
    nobody = ("setpriv", f"--reuid={lab.NOBODY}", f"--regid={lab.NOBODY}", "--clear-groups", "unshare", "--user", "--map-root-user")
    with elsewhere(CONTAINERD, *nobody) as pid:
        assert rule(pid) is None
        node.kill_and_release(Process(pid))


def test_a_configured_socket_counts_too() -> None:
    lab.need_root("a mount namespace")
    with elsewhere("/run/odd/containerd.sock") as pid:
        assert rule(pid) is None
        assert rule(pid, Protection(Additions(sockets=("/run/odd/containerd.sock",)))) == "runtime"
        assert rule(pid, Protection(Additions(sockets=("/run/odd/",)))) == "runtime"


def test_what_the_agent_may_not_look_into_is_protected_where_it_may_be_a_runtime() -> None:
    """Without CAP_SYS_PTRACE the descriptors of root's processes are hidden, and the table of sockets is not."""
    lab.need_root("an agent without CAP_SYS_PTRACE")
    if not shutil.which("setpriv"):
        raise lab.Unavailable("no setpriv")
    code = (
        "import sys; from mrelease_agent.guard.protected import Protection; from mrelease_agent.linux.process import ProcessRef\n"
        "print(*(Protection().rule(ProcessRef.open(int(pid))) for pid in sys.argv[1:]))"
    )
    without = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    with elsewhere(CONTAINERD) as runtime, subprocess.Popen(["/bin/sleep", "1000"]) as other:
        try:
            command = [*without, sys.executable, "-c", code, str(runtime), str(other.pid)]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            other.kill()
    assert said.stdout == "unverified None\n", said.stderr


# Parents of containers


@contextlib.contextmanager
def parent_of(child_in: lab.Cgroup) -> Generator[tuple[int, int]]:
    """A shell and its child, which is in a group that the shell is not in."""
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE) as shim:
        try:
            assert shim.stdout is not None
            child = int(shim.stdout.readline())
            fd = os.pidfd_open(child)
            try:
                child_in.add(child)
                yield shim.pid, child
            finally:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                os.close(fd)
        finally:
            shim.kill()


def test_the_parent_of_a_container_is_its_shim(node: Client, here: lab.Cgroup) -> None:
    with cgroup_below(here, f"docker/{secrets.token_hex(32)}") as box, parent_of(box) as (shim, child):
        assert refused(node, Process(shim)) == ("runtime", shim)
        assert {info.process.pid: info.protection for info in node.list_processes(limit=10000)}[shim] == "runtime"
        node.kill_and_release(Process(child))
        lab.until(lambda: rule(shim) is None, "a shim without a container is a process like others")


def test_a_user_cannot_make_his_process_a_shim_in_a_cgroup_of_his_own(node: Client, here: lab.Cgroup) -> None:
    lab.need_root("a cgroup of another user's")
    with cgroup_below(here, f"user.slice/{secrets.token_hex(32)}") as box, parent_of(box) as (shim, _):
        assert rule(shim) == "runtime"
        os.chown(box.path, lab.NOBODY, lab.NOBODY)
        assert rule(shim) is None
        node.kill_and_release(Process(shim))


def test_what_runs_a_container_inside_a_container_is_part_of_it(here: lab.Cgroup) -> None:
    outer = f"docker/{secrets.token_hex(32)}"
    with (
        cgroup_below(here, f"{outer}/daemon") as daemon,
        cgroup_below(here, f"{outer}/docker/{secrets.token_hex(32)}") as inner,
        parent_of(inner) as (shim, _),
    ):
        daemon.add(shim)
        assert rule(shim) is None


def test_a_monitor_in_its_cgroup_is_protected_before_its_container_is_there(here: lab.Cgroup) -> None:
    uid = str(uuid.uuid4())
    with (
        cgroup_below(here, f"kubepods/pod{uid}/crio-conmon-{secrets.token_hex(32)}.scope") as scope,
        lab.live(SIZE, within=[scope]) as monitor,
    ):
        assert rule(monitor.pid) == "monitor"
        if os.geteuid() == 0:
            os.chown(scope.path, lab.NOBODY, lab.NOBODY)
            assert rule(monitor.pid) is None


# The sandbox, and the agent's own pod


def test_a_sandbox_is_protected_by_its_pid_too(node: Client, here: lab.Cgroup, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    _, path = new_pod()
    with cgroup_below(here, path) as group, subprocess.Popen([shutil.copy(sleep, tmp_path / "pause"), "1000"]) as pause:
        try:
            group.add(pause.pid)
            assert refused(node, Process(pause.pid)) == ("sandbox", pause.pid)
        finally:
            pause.kill()
    with cgroup_below(here, path) as group, lab.live(SIZE, within=[group]) as trainer:
        assert dies(node, trainer)


@contextlib.contextmanager
def agent_in(group: lab.Cgroup, run_dir: Path, *flags: str) -> Generator[Agent]:
    enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group.path / "cgroup.procs")]
    with running_agent(run_dir, *flags, prefix=enter) as agent:
        yield agent


def test_everything_in_the_agents_own_pod_is_protected(here: lab.Cgroup, run_dir: Path) -> None:
    uid, path = new_pod()
    sidecar = f"kubepods/burstable/pod{uid}/{secrets.token_hex(32)}"
    _, other = new_pod()
    with (
        cgroup_below(here, path) as own,
        cgroup_below(here, sidecar) as beside,
        cgroup_below(here, other) as neighbours,
        lab.live(SIZE, within=[beside]) as helper,
        lab.live(SIZE, within=[neighbours]) as victim,
        agent_in(own, run_dir) as agent,
        agent.client() as node,
    ):
        assert refused(node, Process(helper.pid)) == ("agent-pod", helper.pid)
        assert refused(node, Container(Path(sidecar).name)) == ("agent-pod", helper.pid)
        assert refused(node, Pod(uid))[0] in ("agent", "agent-pod")
        assert dies(node, victim)
        assert not helper.exited(0)


def test_an_agent_in_the_only_container_that_it_sees_serves_it(here: lab.Cgroup, run_dir: Path) -> None:
    """As in a container for tests: pid 1 is in it too."""
    lab.need_root("a PID namespace")
    if not shutil.which("setpriv"):
        raise lab.Unavailable("no setpriv")
    code = (
        "import os, sys, time; from mrelease_agent.guard.protected import Protection; from mrelease_agent.linux.process import ProcessRef\n"
        "assert os.getpid() == 2 or os.fork() == 0 or os.waitpid(-1, 0) and os._exit(0)\n"
        "child = os.fork() or time.sleep(1000)\n"
        "print(Protection().rule(ProcessRef.open(child)), Protection().rule(ProcessRef.open(1)), flush=True); os.kill(child, 9)"
    )
    _, path = new_pod()
    with cgroup_below(here, path) as own:
        enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(own.path / "cgroup.procs")]
        namespace = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command = [*enter, *namespace, sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert said.stdout == "None init\n", said.stderr


# A real runtime

CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
"""


@contextlib.contextmanager
def containerd(folder: Path) -> Generator[int]:
    """A containerd in PID and mount namespaces of its own, with its usual socket in a /run of its own: its pid here."""
    lab.need_root("containerd")
    missing = [tool for tool in ("containerd", "ctr", "runc", "busybox", "nsenter") if not shutil.which(tool)]
    if missing:
        raise lab.Unavailable(f"not installed: {', '.join(missing)}")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder))
    script = 'mount -t tmpfs tmpfs /run && exec containerd --config "$0" --log-level error'
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script, str(folder / "config.toml")]
    with (folder / "log").open("wb") as log, subprocess.Popen(own, stdout=log, stderr=log) as outer:
        try:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            lab.until(lambda: children.read_text().strip() != "", "the namespaces")
            pid = int(children.read_text())
            lab.until(lambda: not ctr(pid, "version").returncode, "containerd serves")
            yield pid
        finally:
            outer.kill()


def ctr(pid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["nsenter", "--target", str(pid), "--mount", "--pid", "ctr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_containerd_and_its_shim_are_protected_and_its_container_is_not(node: Client, here: lab.Cgroup, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    with containerd(tmp_path) as daemon:
        assert busybox
        (tmp_path / "rootfs/bin").mkdir(parents=True)
        shutil.copy(busybox, tmp_path / "rootfs/bin/sleep")
        name = secrets.token_hex(32)
        path = f"{path_of(here)}/{name}"
        made = ctr(
            daemon, "run", "--detach", "--null-io", "--rootfs", "--cgroup", path, str(tmp_path / "rootfs"), name, "/bin/sleep", "1000"
        )
        assert not made.returncode, made.stderr
        inside = int((here.path / name / "cgroup.procs").read_text())
        with ProcessRef.open(inside) as ref:
            shim = ref.stat.ppid
        assert Path(f"/proc/{shim}/comm").read_text().startswith("containerd-shim")
        assert refused(node, Process(daemon)) == ("runtime", daemon)
        assert refused(node, Process(shim)) == ("runtime", shim)
        result = node.kill_and_release(Process(inside))
        assert result.processes[0].pid == inside
        # Its container has ended, and the shim waits for somebody to ask what became of it.
        assert refused(node, Process(shim)) == ("runtime", shim)
        ctr(daemon, "task", "delete", "--force", name)
        lab.until(lambda: not (here.path / name).exists(), "the container's cgroup is removed")
