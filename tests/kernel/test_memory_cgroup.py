"""The memory cgroup of a process as proof: found where the agent sees it, bound to that very cgroup, and trusted only if it is alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Process, Wait
from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.cgroups import MemoryCgroup
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.reaping.outcome import Proof
from mrelease_agent.reaping.proving import Proving
from mrelease_agent.reaping.report import Report
from support import lab
from support.agent import running_agent
from support.lab.cgroups import cgroup_below

SIZE = 16 * lab.MIB
MEMORY = ["memory"]


@pytest.fixture
def group() -> Generator[lab.Cgroup, None, None]:
    with lab.memory_cgroup() as group:
        yield group


def opened(pid: int) -> MemoryCgroup:
    proc = procfs.open_process(pid)
    try:
        found = MemoryCgroup.of(pid, proc)
    finally:
        os.close(proc)
    assert found is not None
    return found


def path_of(group: lab.Cgroup) -> str:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    return tree.top.rstrip("/") + "/" + str(group.path.relative_to(tree.mount.path))


def test_the_charge_of_a_process_alone_in_its_cgroup_is_its_memory(group: lab.Cgroup) -> None:
    with lab.live(SIZE, within=[group]) as victim:
        found = opened(victim.pid)
        assert (found.path, found.alone) == (path_of(group), True)
        assert found.before >= SIZE
        assert found.anon() >= SIZE
        victim.kill()
        assert victim.exited()
        lab.until(lambda: found.usage() < found.before - SIZE // 2, "the charge falls")
        found.close()
        found.close()


def test_memory_is_said_to_be_back_when_its_charge_was_read_and_not_at_the_exit_before(group: lab.Cgroup) -> None:
    """Somebody else may have let go of pinned pages in between: in an hour's soak it happened to 1 of 29,704 answers."""
    with lab.live(SIZE, within=[group]) as victim:
        ref, start = ProcessRef.open(victim.pid), time.monotonic()
        report = Report(ref.identity, before=ref.memory())
        proving = Proving(ref, report)
        proving.start, proving.cgroup = start, opened(victim.pid)
        victim.kill()
        assert victim.exited()
        report.exit_duration = time.monotonic() - start
        lab.until(proving.exited, "the memory is back")
        asked = time.monotonic() - start
        assert proving.exited()
        assert report.release_duration is not None
        assert (report.proof, report.release_duration >= asked) == (Proof.CGROUP, True)
        proving.cgroup.close()
        ref.close()


def test_with_neighbours_or_cgroups_below_it_is_not_alone(group: lab.Cgroup) -> None:
    with lab.live(lab.MIB, within=[group]) as victim:
        with lab.live(lab.MIB, within=[group]):
            found = opened(victim.pid)
            assert not found.alone
            found.close()
        with cgroup_below(group, "child"):
            found = opened(victim.pid)
            assert not found.alone
            found.close()


def test_the_charge_stays_that_of_the_cgroup_when_the_process_is_moved(group: lab.Cgroup) -> None:
    with (
        cgroup_below(group, "before", MEMORY) as before,
        cgroup_below(group, "after", MEMORY) as after,
        lab.live(SIZE, within=[before]) as victim,
    ):
        found = opened(victim.pid)
        after.add(victim.pid)
        lab.until(lambda: str(victim.pid) in after.read("cgroup.procs").split(), "the process is moved")
        assert found.usage() == before.usage()
        assert found.path == path_of(before)
        found.close()


def test_another_cgroup_with_the_name_of_a_removed_one_is_not_read(group: lab.Cgroup) -> None:
    with cgroup_below(group, "x", MEMORY) as first, lab.live(SIZE, within=[first]) as victim:
        found = opened(victim.pid)
        victim.kill()
        assert victim.exited()
        last = found.usage()
    with cgroup_below(group, "x", MEMORY) as second, lab.live(2 * SIZE, within=[second]):
        assert found.usage() == last
        assert found.anon() == 0
    found.close()


def test_a_process_in_the_root_cgroup_has_none() -> None:
    pid = lab.kernel_thread()
    proc = procfs.open_process(pid)
    try:
        assert MemoryCgroup.of(pid, proc) is None
    finally:
        os.close(proc)


def test_a_process_that_is_gone_has_none(group: lab.Cgroup) -> None:
    with lab.live(lab.MIB, within=[group]) as victim:
        proc = procfs.open_process(victim.pid)
        victim.kill()
        assert victim.exited()
    assert MemoryCgroup.of(victim.pid, proc) is None
    os.close(proc)


#: What MemoryCgroup says of a process, in a process of its own.
_ASK = """
import json, os, sys
from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroups import MemoryCgroup, memory_tree
pid = int(sys.argv[1])
found = MemoryCgroup.of(pid, procfs.open_process(pid))
print(json.dumps([memory_tree().mount.root, found.path, found.alone, found.before, found.anon()]))
"""


def entering(group: lab.Cgroup) -> list[str]:
    """The command line that runs a command in a cgroup and a cgroup namespace of its own."""
    lab.need_root("a cgroup namespace")
    return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(group.path / "cgroup.procs"), "unshare", "--cgroup"]


def test_in_a_cgroup_namespace_of_its_own_the_agent_reads_the_same(group: lab.Cgroup) -> None:
    with (
        cgroup_below(group, f"pod{uuid.uuid4()}/agent", MEMORY) as own,
        cgroup_below(group, "pod/victim", MEMORY) as other,
        lab.live(SIZE, within=[other]) as victim,
    ):
        said = subprocess.run([*entering(own), sys.executable, "-c", _ASK, str(victim.pid)], capture_output=True, text=True, check=True)
        root, path, alone, before, anon = json.loads(said.stdout)
        assert set(root.strip("/").split("/")) == {".."}
        assert (path, alone) == (path_of(other), True)
        assert before >= SIZE
        assert anon >= SIZE


def test_without_openat2_the_cgroup_is_opened_name_by_name(group: lab.Cgroup) -> None:
    with cgroup_below(group, "a/b/c", MEMORY) as deep, lab.live(SIZE, within=[deep]) as victim:
        command = lab.filtered([sys.executable, "-c", _ASK, str(victim.pid)], error="ENOSYS", syscall="openat2")
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        _, path, alone, before, _ = json.loads(said.stdout)
        assert (path, alone) == (path_of(deep), True)
        assert before >= SIZE


@pytest.mark.usefixtures("process_mrelease")
def test_an_agent_in_a_cgroup_namespace_of_its_own_shows_the_charge_of_what_it_killed(group: lab.Cgroup, run_dir: Path) -> None:
    with (
        cgroup_below(group, "agent", MEMORY) as own,
        cgroup_below(group, "victim", MEMORY) as other,
        running_agent(run_dir, prefix=entering(own)) as agent,
        agent.client() as node,
        lab.live(SIZE, within=[other]) as victim,
    ):
        (listed,) = [row for row in node.list_processes(limit=None) if row.pid == victim.pid]
        assert listed.cgroup == path_of(other)
        (process,) = node.kill_and_release(Process(victim.pid), wait=Wait.EXITED).processes
        assert process.cgroup is not None
        assert process.cgroup.path == path_of(other)
        assert process.cgroup.before_bytes - process.cgroup.after_bytes > SIZE // 2
