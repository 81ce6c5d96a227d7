"""Who holds files of a process's /proc directory open: however /proc is mounted there and whatever number the process has there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease_agent.linux.budget import Budget
from mrelease_agent.linux.memory_readers import Readers, readers_of
from mrelease_agent.linux.process import NotALeaderError, ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from support import lab

#: Opens what it is told, says so, and ends with its stdin.
READER = "import os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); print(os.getpid(), flush=True); sys.stdin.read()"
#: The same with a child of its own as the victim: both have numbers of their PID namespace.
PARENT = """
import os, subprocess, sys
victim = subprocess.Popen(["sleep", "1000"])
fd = os.open(f"/proc/{victim.pid}/smaps", os.O_RDONLY)
print(victim.pid, flush=True)
sys.stdin.read()
victim.kill()
victim.wait()
"""


@contextlib.contextmanager
def reader(path: str, *prefix: str, script: str = READER) -> Generator[int]:
    """A process that holds `path` open; gives the number that the script says."""
    if prefix:
        lab.need_root("a namespace of its own")
        if shutil.which(prefix[0]) is None:
            raise lab.Unavailable(f"no {prefix[0]}(1)")
    command = [*prefix, sys.executable, "-c", script, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise lab.Unavailable(f"{' '.join(prefix)} does not work here")
        try:
            yield int(said)
        finally:
            process.communicate()


def find(pid: int) -> Readers:
    with ProcessRef.open(pid) as ref:
        return readers_of(ref, Budget(30))


def found(pid: int) -> set[tuple[int, str]]:
    return {(each.pid, each.what) for each in find(pid).found}


@pytest.mark.parametrize("name", ["mem", "maps", "smaps", "smaps_rollup", "pagemap", "environ", "cmdline"])
def test_an_open_file_is_a_reader(name: str) -> None:
    with lab.live() as victim, reader(f"/proc/{victim.pid}/{name}") as pid:
        assert found(victim.pid) == {(pid, f"/proc/{victim.pid}/{name}")}


def test_a_file_of_a_thread_is_one_too() -> None:
    with lab.many_threads(2) as victim:
        tid = lab.threads(victim.pid)[1]
        with reader(f"/proc/{victim.pid}/task/{tid}/smaps") as pid, reader(f"/proc/{tid}/mem") as other:
            assert found(victim.pid) == {(pid, f"/proc/{victim.pid}/task/{tid}/smaps"), (other, f"/proc/{tid}/mem")}


@pytest.mark.parametrize("name", ["stat", "status", "statm", "comm", "cgroup"])
def test_what_reads_no_memory_is_none(name: str) -> None:
    with lab.live() as victim, reader(f"/proc/{victim.pid}/{name}"):
        assert found(victim.pid) == set()


def test_an_ordinary_file_of_that_name_is_none(tmp_path: Path) -> None:
    with lab.live() as victim:
        file = tmp_path / str(victim.pid) / "mem"
        file.parent.mkdir()
        file.touch()
        with reader(str(file)):
            assert found(victim.pid) == set()


def test_a_reader_of_another_process_is_none() -> None:
    with lab.live() as victim, lab.live() as other, reader(f"/proc/{other.pid}/mem"):
        assert found(victim.pid) == set()


def test_readers_of_two_processes_that_had_one_number_are_told_apart() -> None:
    with lab.pid_reuse() as reuse:
        pid = reuse.spawn()
        with ProcessRef.open(pid) as former, reader(f"/proc/{pid}/mem") as of_former:
            reuse.reuse(pid)
            with reader(f"/proc/{pid}/mem") as of_next:
                assert found(pid) == {(of_next, f"/proc/{pid}/mem")}
                assert [each.pid for each in readers_of(former, Budget(30)).found] == [of_former]


def test_a_reader_stays_one_when_the_process_is_dead_and_reaped() -> None:
    with lab.live() as victim, reader(f"/proc/{victim.pid}/mem") as pid, ProcessRef.open(victim.pid) as ref:
        victim.kill()
        assert victim.exited()
        assert [each.pid for each in readers_of(ref, Budget(30)).found] == [pid]
        os.waitpid(victim.pid, 0)
        assert [each.pid for each in readers_of(ref, Budget(30)).found] == [pid]


def test_through_a_bind_mount_of_proc(tmp_path: Path) -> None:
    # As node exporters see the node: /proc of the host at /host/proc.
    with lab.live() as victim:
        bind = f'mount --bind /proc {tmp_path} && exec "$0" "$@"'
        with reader(f"{tmp_path}/{victim.pid}/smaps", "unshare", "--mount", "sh", "-c", bind) as pid:
            assert found(victim.pid) == {(pid, f"{tmp_path}/{victim.pid}/smaps")}


def test_through_another_proc_of_the_same_pid_namespace() -> None:
    with lab.live() as victim, reader(f"/proc/{victim.pid}/smaps", "unshare", "--mount", "--mount-proc") as pid:
        assert found(victim.pid) == {(pid, f"/proc/{victim.pid}/smaps")}


def test_in_another_pid_namespace_by_the_number_there() -> None:
    unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with reader("", *unshare, script=PARENT) as inside:
        (parent,) = (pid for fork in _children(os.getpid()) for pid in _children(fork) if _numbers(pid)[1:] == [1])
        (victim,) = (pid for pid in _children(parent) if _numbers(pid)[-1] == inside)
        assert found(victim) == {(parent, f"/proc/{inside}/smaps")}
        # Whoever has that number here is another process.
        with contextlib.suppress(ProcessGoneError, NotALeaderError):
            assert parent not in {each.pid for each in find(inside).found}


def _numbers(pid: int) -> list[int]:
    return [int(number) for number in lab.status_fields(pid).get("NSpid", "").split()]


def _children(pid: int) -> list[int]:
    return [int(child) for tid in lab.threads(pid) for child in Path(f"/proc/{pid}/task/{tid}/children").read_text().split()]
