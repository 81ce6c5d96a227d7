"""Real programs with a lot of memory, as they run anywhere: a Java virtual machine, Redis, stress-ng.

Each is a context manager that ends what it started. Where a program is missing, entering raises lab.Unavailable, which names it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

from support import lab
from support.lab import MIB

#: What must be free beside a program, so that no test drives the machine out of memory.
_SPARE = 512 * MIB


def tool(name: str, package: str, folders: Iterable[Path] = ()) -> str:
    """Where a program is. Raises lab.Unavailable naming the Debian package."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise lab.Unavailable(f"{name} is not installed (Debian: {package})")
    return found


def need_memory(size: int) -> None:
    """Raises lab.Unavailable where the machine has not ``size`` bytes to spare."""
    available = lab.meminfo("MemAvailable")
    if available < size + _SPARE:
        raise lab.Unavailable(f"needs {(size + _SPARE) // MIB} MiB, available are {available // MIB}")


@contextlib.contextmanager
def work_folder(user: int | None = None) -> Generator[Path]:
    """A folder that ``user`` can reach and owns: pytest's are closed to others."""
    with tempfile.TemporaryDirectory(prefix="mrelease-test-", dir="/tmp") as name:
        if user is not None:
            os.chown(name, user, user)
        yield Path(name)


@contextlib.contextmanager
def running(*command: str, log: Path, within: lab.Cgroup | None = None) -> Generator[subprocess.Popen[bytes]]:
    """A program that writes to ``log``, started in the group ``within``; it is killed at the end, and with it who is left in the group."""
    enter = f"echo $$ > '{within.path}/cgroup.procs' && " if within else ""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f'{enter}exec "$@"', "sh", *command] if enter else command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=log.parent,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        if within:
            lab.until(lambda: not _kill_members(within), f"{within.path} is empty")


def _kill_members(group: lab.Cgroup) -> list[int]:
    """Kills who is in the group; who was."""
    pids = [int(pid) for pid in group.read("cgroup.procs").split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
    return pids


def await_memory(process: subprocess.Popen[bytes], size: int, log: Path) -> None:
    """Wait until a program has ``size`` bytes of private memory. Raises AssertionError with its output where it ends instead."""

    def there() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        return lab.rss_anon(process.pid) >= size

    lab.until(there, f"{process.args!r} has {size // MIB} MiB")


@contextlib.contextmanager
def java(heap: int) -> Generator[subprocess.Popen[bytes]]:
    """A Java virtual machine whose heap is touched before its program begins; the program waits for its stdin."""
    program = tool("java", "default-jre-headless")
    need_memory(heap)
    options = (f"-Xms{heap}", f"-Xmx{heap}", "-XX:+AlwaysPreTouch", "-XX:-UsePerfData")
    with work_folder() as folder:
        # keytool belongs to every runtime: no compiler is needed.
        main = ("-m", "java.base/sun.security.tools.keytool.Main", "-printcert")
        with running(program, *options, *main, log=folder / "log") as process:
            await_memory(process, heap, folder / "log")
            yield process


@contextlib.contextmanager
def redis(size: int) -> Generator[subprocess.Popen[bytes]]:
    """A Redis that holds ``size`` bytes in strings of at most 512 MiB, and saves nothing."""
    program = tool("redis-server", "redis-server")
    need_memory(size)
    with work_folder() as folder:
        path = folder / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder))
        with running(program, *options, log=folder / "log") as process:
            lab.until(path.exists, "Redis listens")
            with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as answers:
                lab.until(lambda: connection.connect_ex(str(path)) == 0, "Redis answers")
                for number, start in enumerate(range(0, size, 512 * MIB)):
                    length = min(512 * MIB, size - start)
                    connection.sendall(f"SETRANGE key{number} {length - 1} x\r\n".encode())
                    assert answers.readline() == f":{length}\r\n".encode()
            await_memory(process, size, folder / "log")
            yield process


@contextlib.contextmanager
def stress_ng(group: lab.Cgroup, workers: int, size: int) -> Generator[subprocess.Popen[bytes]]:
    """A stress-ng in ``group``, whose ``workers`` write to ``size`` bytes in all without a pause; one that is killed is started again."""
    program = tool("stress-ng", "stress-ng")
    need_memory(size)
    # As in a container without privileges: with CAP_SYS_RESOURCE it takes itself away from the OOM killer (oom_score_adj -1000).
    drop = (tool("setpriv", "util-linux"), "--bounding-set=-sys_resource")
    command = (*drop, program, "--vm", str(workers), "--vm-bytes", str(size), "--vm-keep", "--vm-method", "zero-one", "--timeout", "0")
    with work_folder() as folder, running(*command, log=folder / "log", within=group) as process:
        lab.until(lambda: group.usage() >= size, f"stress-ng has {size // MIB} MiB")
        yield process
