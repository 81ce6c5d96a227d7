"""A Slurm of one node: munged, slurmctld and slurmd as processes of the tests, with sockets, ports and folders of their own.

Jobs are those of an ordinary user. slurmd lives in a mount namespace of its own, in which file systems hang (`hanging`) that nobody
else sees and that go when it goes.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support import lab, patience
from support.lab import HangFs, Unavailable
from support.lab.child import started

HERE = Path(__file__).parent
HOG = HERE.parent / "hog.py"
#: A user that every Debian has and who owns nothing, and another one.
USER: Final = "games"
OTHER_USER: Final = "news"
#: Seconds from the SIGKILL to what Slurm calls unkillable. Its default is 60.
UNKILLABLE: Final = 4
_NEEDED: Final = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel", "unshare", "nsenter")
_PATIENCE: Final = 60.0 * patience.FACTOR

_CONFIG: Final = """
ClusterName=mrelease
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd
ProctrackType={proctrack}
TaskPlugin={task}
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=1
DefMemPerNode=700
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=1
MessageTimeout=10
CompleteWait=0
UnkillableStepTimeout={unkillable}
UnkillableStepProgram={folder}/hooks/unkillable-step
Epilog={folder}/hooks/epilog
SlurmdParameters=config_overrides
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=6000 State=UNKNOWN
PartitionName=p Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""
_CGROUP_CONFIG: Final = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
"""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Slurm that runs. ``folder`` can be read by everybody; ``environment``: of programs that ask it; ``space``: pid in its namespace."""

    folder: Path
    node: str
    environment: dict[str, str]
    space: int

    def run(self, *command: str, user: str = "root", check: bool = True) -> str:
        """Run one of Slurm's commands, or of ours; what it prints."""
        entry = pwd.getpwnam(user)
        # As another user it is a fork(), on which gRPC remarks.
        other: dict[str, Any] = {} if user == "root" else {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        ran: subprocess.CompletedProcess[str] = subprocess.run(
            command, env=self.environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False, **other,
        )  # fmt: skip
        assert ran.returncode == 0 or not check, f"{command} as {user}: status {ran.returncode}: {ran.stderr}{ran.stdout}"
        return ran.stdout.strip()

    def submit(self, *script: str, options: Sequence[str] = (), user: str = USER) -> int:
        """Submit a batch script of these lines; its number."""
        file = Path(tempfile.mkstemp(dir=self.folder / "jobs", suffix=".sh")[1])
        file.write_text("\n".join(("#!/bin/sh", *script, "")))
        file.chmod(0o755)
        said = self.run("sbatch", "--parsable", "--no-requeue", "--chdir=/", "--output=/dev/null", *options, str(file), user=user)
        return int(said.partition(";")[0])

    def hog(self, size: int, fs: HangFs | None = None) -> str:
        """A command line for a job: takes memory, then hangs in the file system, or only waits."""
        return f"/usr/bin/python3 -E -s -S {self.folder}/hog.py {size // lab.MIB} {'' if fs is None else fs.path}".strip()

    def job_state(self, job: int | str) -> str:
        """RUNNING, COMPLETING and so on; empty: it has left the queue."""
        return self.run("squeue", "--noheader", f"--jobs={job}", "--format=%T", check=False)

    def final_state(self, job: int | str) -> str:
        """What slurmctld remembers of a job: its JobState."""
        return next((word[9:] for word in self.run("scontrol", "show", "job", str(job)).split() if word.startswith("JobState=")), "")

    def node_state(self) -> tuple[str, str]:
        """State of the node, as idle or draining, and why it is drained."""
        state, _, reason = self.run("sinfo", "--noheader", "--Node", "--format=%T|%E").partition("|")
        return state.strip("*~#$@+-").lower(), reason

    def await_job(self, job: int | str, state: str) -> None:
        """Wait until squeue shows this state, or with an empty one nothing at all."""
        wait_for(lambda: self.job_state(job) == state, lambda: f"job {job} is {state or 'out of the queue'}: {self.job_state(job)}")

    def await_node(self, *states: str) -> str:
        """Wait until the node is in one of these states; returns why it is drained, or nothing."""
        wait_for(lambda: self.node_state()[0] in states, lambda: f"the node is {' or '.join(states)}: {self.node_state()}")
        state, reason = self.node_state()
        return reason if state.startswith("drain") else ""

    def resume(self) -> None:
        """Make the node usable again where it was drained, when what it has is over."""
        wait_for(lambda: not self.run("squeue", "--noheader", "--format=%i"), lambda: "every job is out of the queue")
        if self.await_node("idle", "drained"):
            self.run("scontrol", "update", f"nodename={self.node}", "state=resume")
        self.await_node("idle")

    def log_of(self, job: int) -> list[str]:
        """What the hooks have said of a job so far."""
        log = self.folder / "log" / "hooks"
        return [line for line in log.read_text().splitlines() if f"job={job}" in line] if log.exists() else []

    def configure_hooks(self, **settings: str) -> None:
        """Write mrelease.conf of the hooks."""
        given = {"MRELEASE": str(self.folder / "mrelease"), "LOG": str(self.folder / "log" / "hooks"), "DEADLINE": "120", **settings}
        file = self.folder / "hooks" / "mrelease.conf"
        file.with_suffix(".new").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        file.with_suffix(".new").rename(file)

    @contextlib.contextmanager
    def hanging(self) -> Generator[HangFs]:
        """A file system that jobs of this Slurm can read, and whose reads are held until it is let go."""
        target = tempfile.mkdtemp(dir=self.folder / "mnt")
        enter = ["nsenter", "--target", str(self.space), "--mount", "--"]
        with started(str(HERE / "hang_server.py"), wrap=lambda command: [*enter, *command], target=target, held=["READ"]) as server:
            server.hear("FUSE mounted")
            yield HangFs(server, f"{target}/file")

    def end_jobs(self) -> None:
        """Cancel everything; when nothing hangs any more it ends."""
        for job in self.run("squeue", "--noheader", "--format=%A").split():
            self.run("scancel", "--signal=KILL", "--full", job, check=False)
            self.run("scancel", job, check=False)


@contextlib.contextmanager
def cluster(*, proctrack: str = "proctrack/cgroup", task: str = "task/cgroup") -> Generator[Cluster]:
    """Start a Slurm and end it, with all that it has made."""
    lab.need_root("running slurmd")
    missing = [tool for tool in _NEEDED if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"Slurm is not installed (slurmctld, slurmd, slurm-client, munge): no {', '.join(missing)}")
    if "cgroup" in proctrack and not Path("/sys/fs/cgroup/freezer").is_dir():
        raise Unavailable("proctrack/cgroup of Slurm 22.05 needs the freezer controller in cgroup v1, or systemd")
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="mrelease-slurm-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        node = f"mrelease{os.getpid()}"
        environment = _prepare(folder, node, proctrack, task)
        space = stack.enter_context(_daemon(["unshare", "--mount", "--propagation", "private", "sleep", "infinity"], environment, folder))
        lab.until(lambda: _namespace(space.pid) != _namespace(os.getpid()), "the mount namespace of slurmd")
        made = Cluster(folder, node, environment, space.pid)
        stack.callback(_remove_cgroups, node)
        munge = [f"--key-file={folder}/munge/key", f"--socket={folder}/munge/socket", f"--pid-file={folder}/munge/pid"]
        munge += [f"--seed-file={folder}/munge/seed", f"--log-file={folder}/munge/log"]
        stack.enter_context(_daemon(["munged", "--foreground", "--force", *munge], environment, folder))
        lab.until((folder / "munge" / "socket").is_socket, "munged listens")
        stack.enter_context(_daemon(["slurmctld", "-D", "-f", f"{folder}/slurm.conf"], environment, folder))
        wait_for(lambda: "is UP" in made.run("scontrol", "ping", check=False), lambda: f"slurmctld answers: {_words(folder, 'slurmctld')}")
        enter = ["nsenter", "--target", str(space.pid), "--mount", "--"]
        stack.callback(_end_rest, _namespace(space.pid), space.pid)
        stack.enter_context(_daemon([*enter, "slurmd", "-D", "-N", node, "-f", f"{folder}/slurm.conf"], environment, folder))
        wait_for(lambda: made.node_state()[0] == "idle", lambda: f"the node is idle: {_words(folder, 'slurmd')}")
        stack.callback(made.end_jobs)
        yield made


def installed_version() -> str:
    """As people write it; empty where it is not installed."""
    if shutil.which("slurmd") is None:
        return ""
    said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=False).stdout
    return said.strip().replace("slurm-wlm", "Slurm").replace("slurm ", "Slurm ")


def _prepare(folder: Path, node: str, proctrack: str, task: str) -> dict[str, str]:
    for name in ("munge", "state", "spool", "log", "hooks", "jobs", "mnt"):
        (folder / name).mkdir(mode=0o755)
    (folder / "munge" / "key").write_bytes(os.urandom(64))
    (folder / "munge" / "key").chmod(0o400)
    shutil.copy(HOG, folder / "hog.py")
    (folder / "hog.py").chmod(0o644)
    source = HERE.parents[2] / "deploy" / "slurm"
    for name in ("hooks.sh", "epilog", "unkillable-step"):
        shutil.copy(source / name, folder / "hooks" / name)
    ports = _free_ports(2)
    config = _CONFIG.format(
        folder=folder, host=socket.gethostname().partition(".")[0], node=node, proctrack=proctrack, task=task, unkillable=UNKILLABLE,
        controller_port=ports[0], node_port=ports[1],
    )  # fmt: skip
    (folder / "slurm.conf").write_text(config)
    (folder / "cgroup.conf").write_text(_CGROUP_CONFIG)
    wrapper = folder / "mrelease"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m mrelease "$@"\n')
    wrapper.chmod(0o755)
    path = f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "SLURM_CONF": f"{folder}/slurm.conf", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "TMPDIR": "/tmp"}


@contextlib.contextmanager
def _daemon(command: Sequence[str], environment: dict[str, str], folder: Path) -> Generator[subprocess.Popen[bytes]]:
    """A process until the end of the context, ended by its own pid; its first words are in ``log``."""
    name = Path(next(word for word in command if not word.startswith("-") and word != "nsenter" and not word.isdecimal())).name
    with (folder / "log" / f"{name}.out").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_PATIENCE)


def _end_rest(space: str, keep: int) -> None:
    """End what is left in the mount namespace of slurmd, and only that: slurmstepd outlives it by design, what left its job too."""
    left = True
    deadline = time.monotonic() + _PATIENCE
    while left and time.monotonic() < deadline:
        left = False
        for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
            if pid != keep and _namespace(pid) == space:
                left = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        time.sleep(0.02)


def _remove_cgroups(node: str) -> None:
    deadline = time.monotonic() + 10
    while (left := _groups(node)) and time.monotonic() < deadline:
        for group in reversed(left):
            with contextlib.suppress(OSError):
                group.rmdir()
        time.sleep(0.01)


def _groups(node: str) -> list[Path]:
    """The cgroups of a node, parents first."""
    found: list[Path] = []
    for root in Path("/sys/fs/cgroup").glob(f"*/slurm_{node}"):
        found += [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _namespace(pid: int) -> str:
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return ""


def _words(folder: Path, name: str) -> str:
    logs = [folder / "log" / f"{name}.out", folder / "log" / name]
    return " ".join(line for log in logs if log.exists() for line in log.read_text().splitlines()[-5:])


def wait_for(condition: Callable[[], bool], awaited: Callable[[], str]) -> None:
    """As lab.until, with time between the questions: each is a process."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE:g} s until {awaited()}")
        time.sleep(0.1)
