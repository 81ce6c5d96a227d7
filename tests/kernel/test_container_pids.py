"""A process by the pid that it has in its container: exactly that process, in that container, and nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Client, Container, Outcome, Process, Verdict, Wait, errors
from mrelease.v1 import target_pb2
from mrelease_agent.guard.protected import Protection
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.rpc.process_target import admitted
from mrelease_agent.targets import process as process_target
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.process import resolve_in_container
from support import lab
from support.lab.cgroups import cgroup_below

BOX = "x = bytearray(8 << 20)"
#: Runs as the first process of its PID namespace: enters the cgroup, makes another process there, and says so.
SCRIPT = f"""
import os, signal, sys
open(sys.argv[1], "w").write("0")
if os.fork() == 0:
    {BOX}
    os.write(1, b"\\n")
    signal.pause()
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
signal.pause()
"""


@contextlib.contextmanager
def pid_namespace(group: lab.Cgroup) -> Generator[dict[int, int], None, None]:
    """Two processes in a PID namespace of their own, in a cgroup: their pids on the node by those that they have there, 1 and 2."""
    lab.need_root("a PID namespace")
    before = set(group.read("cgroup.procs").split())
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-E", "-s", "-S", "-c", SCRIPT]
    with subprocess.Popen([*command, str(group.path / "cgroup.procs")], stdout=subprocess.PIPE) as outer:
        assert outer.stdout
        try:
            assert outer.stdout.readline() == b"\n"
            pids = [int(pid) for pid in group.read("cgroup.procs").split() if pid not in before]
            yield {int(lab.status_fields(pid)["NSpid"].split()[-1]): pid for pid in pids}
        finally:
            outer.kill()


@pytest.fixture
def place() -> Generator[lab.Cgroup, None, None]:
    with lab.memory_cgroup() as group:
        yield group


@pytest.fixture
def container(place: lab.Cgroup) -> Generator[tuple[str, lab.Cgroup], None, None]:
    cid = secrets.token_hex(32)
    with cgroup_below(place, f"k8s.io/{cid}") as group:
        yield cid, group


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and lab.state(pid) != "Z"


pytestmark = pytest.mark.usefixtures("process_mrelease")


def test_the_container_s_own_number_kills_that_process_alone(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as pids:
        result = node.kill_and_release(Process(2, container_id=cid[:12]), wait=Wait.EXITED)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
        (process,) = result.processes
        assert (process.pid, process.process.container_id) == (pids[2], "")
        assert process.released_bytes >= 8 * lab.MIB * 0.98
        assert not alive(pids[2])
        assert alive(pids[1])


def test_number_1_is_the_first_process_and_the_whole_container_ends_with_it(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as pids:
        assert alive(1)
        (process,) = node.kill_and_release(Process(1, container_id=cid), wait=Wait.EXITED).processes
        assert process.pid == pids[1]
        lab.until(lambda: not group.read("cgroup.procs"), "the end of the container")


def test_in_a_container_with_the_node_s_pid_namespace_both_numbers_are_the_same(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with lab.live(within=[group]) as victim, lab.live() as other:
        for pid in (other.pid, os.getpid()):
            with pytest.raises(errors.ProcessNotFound):
                node.kill_and_release(Process(pid, container_id=cid))
        assert node.kill_and_release(Process(victim.pid, container_id=cid)).processes[0].pid == victim.pid
        assert not other.exited(0)


def test_an_identity_is_compared_as_for_the_node_s_own_pid(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as pids:
        (row,) = [row for row in node.list_processes(within=Container(cid)) if row.pid == pids[2]]
        assert row.process.start_time_ticks
        inode, ticks = row.process.pidfd_inode, row.process.start_time_ticks
        wrong = [Process(2, start_time_ticks=ticks + 1, container_id=cid)]
        if inode:
            wrong.append(Process(2, inode + 1, container_id=cid))
        for target in wrong:
            with pytest.raises(errors.IdentityMismatch) as refused:
                node.kill_and_release(target)
            assert refused.value.metadata["field"].startswith("target.process.")
        assert alive(pids[2])
        result = node.kill_and_release(Process(2, inode, ticks, cid), validate_only=True)
        assert [process.outcome for process in result.processes] == [Outcome.VALIDATED]


def test_a_number_that_the_container_has_not_is_not_found(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as pids:
        for pid in (3, pids[1], pids[2], 4194304):
            with pytest.raises(errors.ProcessNotFound) as missing:
                node.kill_and_release(Process(pid, container_id=cid))
            named = missing.value.metadata
            assert (named["pid"], named["container_id"], named["field"]) == (str(pid), cid, "target.process.pid")
        assert all(map(alive, pids.values()))


def test_a_container_that_is_not_there_or_not_one_is_named(node: Client, container: tuple[str, lab.Cgroup], place: lab.Cgroup) -> None:
    cid, group = container
    field = "target.process.container_id"
    with pid_namespace(group) as pids, cgroup_below(place, f"k8s.io/{cid[:40]}{secrets.token_hex(12)}"):
        for container_id, kind in (
            (secrets.token_hex(32), errors.TargetNotFound),
            (cid[:40], errors.TargetAmbiguous),
            (cid[:11], errors.InvalidField),
            (cid.upper() + "G", errors.InvalidField),
            ("containerd://" + cid, errors.InvalidField),
            ("\n", errors.InvalidField),
            ("x" * 100_000, errors.InvalidField),
        ):
            with pytest.raises(kind) as refused:
                node.kill_and_release(Process(1, container_id=container_id))
            assert refused.value.metadata["field"] == field
        for pid in (0, -1, 4194305, 2**33 + 1):
            with pytest.raises(errors.InvalidField) as refused:
                node.kill_and_release(Process(pid, container_id=cid))
            assert refused.value.metadata["field"] == "target.process.pid"
        assert all(map(alive, pids.values()))


def test_a_number_that_two_pid_namespaces_of_the_container_have_is_ambiguous(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as one, pid_namespace(group) as two:
        with pytest.raises(errors.TargetAmbiguous) as refused:
            node.kill_and_release(Process(2, container_id=cid))
        named = refused.value.metadata
        assert named["field"] == "target.process.pid"
        assert set(named["candidates"].split()) == {str(one[2]), str(two[2])}
        assert alive(one[2])
        assert alive(two[2])


def test_a_process_of_the_sandbox_is_protected(node: Client, place: lab.Cgroup, tmp_path: Path) -> None:
    lab.need_root("a sandbox of its own")
    sleep = shutil.which("sleep")
    assert sleep
    pause = shutil.copy(sleep, tmp_path / "pause")
    cid = secrets.token_hex(32)
    with cgroup_below(place, f"kubepods/pod{uuid.uuid4()}/{cid}") as group:
        script = f"echo $$ >{group.path}/cgroup.procs; exec {pause} infinity"
        with subprocess.Popen(["sh", "-c", script]) as process:
            lab.until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "pause\n", "the sandbox runs")
            try:
                with pytest.raises(errors.Protected) as refused:
                    node.kill_and_release(Process(process.pid, container_id=cid))
                assert refused.value.metadata["rule"] == "sandbox"
                assert refused.value.metadata["field"] == "target.process.container_id"
                assert process.poll() is None
            finally:
                process.kill()


def test_release_finds_it_by_the_same_number_and_leaves_it_alone(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container
    with pid_namespace(group) as pids:
        with pytest.raises(errors.NotDying):
            node.release(Process(2, container_id=cid))
        assert alive(pids[2])


def test_no_list_is_within_a_process_of_a_container(node: Client, container: tuple[str, lab.Cgroup]) -> None:
    with pytest.raises(errors.InvalidField) as refused:
        node.list_processes(within=Process(1, container_id=container[0]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert refused.value.metadata["field"] == "within"


# What happens between the reading of the numbers and the opening of the pidfd


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_process_that_has_left_the_container_meanwhile_is_not_taken(
    container: tuple[str, lab.Cgroup], place: lab.Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, group = container
    real = process_target.resolve

    def resolve(pid: int, *, pidfd_inode: int, start_time_ticks: int) -> ProcessRef:
        place.add(pid)
        return real(pid, pidfd_inode=pidfd_inode, start_time_ticks=start_time_ticks)

    with pid_namespace(group):
        resolve_in_container(cid, 2).close()
        before = open_fds()
        monkeypatch.setattr(process_target, "resolve", resolve)
        with pytest.raises(ProcessGoneError):
            resolve_in_container(cid, 2)
        assert open_fds() == before


def test_another_process_of_the_container_that_got_the_node_s_pid_meanwhile_is_not_taken(
    container: tuple[str, lab.Cgroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, group = container
    with pid_namespace(group) as pids:

        def numbers(_group: Group, _pid: int) -> tuple[int, ...]:
            return pids[2], 7

        before = open_fds()
        monkeypatch.setattr(process_target, "numbers_in_container", numbers)
        with pytest.raises(ProcessGoneError):
            resolve_in_container(cid, 7)
        assert open_fds() == before


def test_a_caller_that_goes_away_while_the_container_is_looked_for_leaves_nothing_open(container: tuple[str, lab.Cgroup]) -> None:
    cid, group = container

    async def give_up() -> None:
        wanted = target_pb2.ProcessTarget(pid=2, container_id=cid)
        task = asyncio.ensure_future(admitted(wanted, Protection(), kill=True, inode_known=False))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        loop = asyncio.get_running_loop()
        await loop.shutdown_default_executor()
        await asyncio.sleep(0)  # the search's own callback

    with pid_namespace(group):
        resolve_in_container(cid, 2).close()
        before = open_fds()
        asyncio.run(give_up())
        assert open_fds() == before
