"""Containers, pods and cgroups as targets: every process of them dies, nobody else does, and the memory is proven back."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mrelease import Cgroup, Client, Container, Outcome, Pod, UnreleasedCause, Verdict, Wait, errors
from mrelease_agent.linux import cgroup_tree
from support import lab
from support.lab import MIB
from support.lab.cgroups import cgroup_below

SIZE = 32 * MIB
pytestmark = pytest.mark.usefixtures("process_mrelease")

#: Forks as fast as it can, and so does each child: killed one by one it would go on.
_BOMB = """
import os, resource, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Node:
    """A group of the lab below which a test builds containers, as a kubelet or a runtime would."""

    group: lab.Cgroup

    def path(self, group: lab.Cgroup) -> str:
        tree = cgroup_tree.tree("memory")
        assert tree is not None
        return tree.top.rstrip("/") + "/" + str(group.path.relative_to(tree.mount.path))


@pytest.fixture
def here() -> Generator[Node, None, None]:
    with lab.memory_cgroup() as group:
        yield Node(group)


@contextlib.contextmanager
def container(node: Node, below: str = "k8s.io") -> Generator[tuple[str, lab.Cgroup], None, None]:
    cid = secrets.token_hex(32)
    with cgroup_below(node.group, f"{below}/{cid}", ["memory", "pids"]) as group:
        yield cid, group


@contextlib.contextmanager
def pod(node: Node) -> Generator[tuple[str, str], None, None]:
    uid = str(uuid.uuid4())
    yield uid, f"kubepods/besteffort/pod{uid}"


def test_every_process_of_a_container_dies_and_nobody_else(node: Client, here: Node) -> None:
    with contextlib.ExitStack() as stack:
        cid, group = stack.enter_context(container(here))
        _, other = stack.enter_context(container(here))
        neighbour = stack.enter_context(lab.live(SIZE, within=[other]))
        victims = [stack.enter_context(lab.live(SIZE, within=[group])) for _ in range(5)]
        result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=30)
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result
        assert {process.pid for process in result.processes} == {victim.pid for victim in victims}
        assert result.released_bytes >= 5 * SIZE * 0.98
        (charge,) = result.cgroups
        assert charge.before_bytes - charge.after_bytes >= 5 * SIZE * 0.98
        assert all(victim.exited(0) for victim in victims)
        assert not neighbour.exited(0)


def test_a_prefix_of_the_id_is_enough(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.live(SIZE, within=[group]) as victim:
        assert node.kill_and_release(Container(cid[:12])).processes[0].pid == victim.pid


def test_a_thousand_processes_in_one_request(node: Client, here: Node) -> None:
    with container(here) as (cid, group):
        procs = group.path / "cgroup.procs"
        script = (
            "import os, signal, sys\nopen(sys.argv[1], 'w').write('0')\n"
            "for _ in range(999):\n    if os.fork() == 0:\n        signal.pause()\nprint(flush=True)\nsignal.pause()"
        )
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", script, str(procs)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            parent.stdout.readline()
            result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=60)
        assert len(result.processes) == 1000
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
        assert not procs.read_text()


def test_a_fork_bomb_does_not_outrun_the_agent(node: Client, here: Node) -> None:
    with container(here) as (cid, group), _fence(group) as fence:
        fence.write("pids.max", "300")
        start = f"open({str(group.path / 'cgroup.procs')!r}, 'w').write('0')\nopen({str(fence.path / 'cgroup.procs')!r}, 'w').write('0')"
        with subprocess.Popen([sys.executable, "-S", "-E", "-c", start + _BOMB], stdout=subprocess.PIPE) as bomb:
            assert bomb.stdout is not None
            bomb.stdout.readline()
            lab.until(lambda: len((group.path / "cgroup.procs").read_text().split()) > 100, "the bomb has gone off")
            result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=60)
        assert not (group.path / "cgroup.procs").read_text()
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result.verdict


def test_a_pod_loses_its_containers_and_keeps_its_sandbox(node: Client, here: Node) -> None:
    with contextlib.ExitStack() as stack:
        uid, path = stack.enter_context(pod(here))
        sandbox_id, sandbox = stack.enter_context(container(here, path))
        pause = stack.enter_context(_pause(sandbox))
        made = [stack.enter_context(container(here, path)) for _ in range(2)]
        victims = [stack.enter_context(lab.live(SIZE, within=[group])) for _, group in made]
        other_uid, other_path = stack.enter_context(pod(here))
        other = stack.enter_context(lab.live(SIZE, within=[stack.enter_context(container(here, other_path))[1]]))
        assert other_uid != uid

        with pytest.raises(errors.Protected) as refused:
            node.kill_and_release(Container(sandbox_id))
        assert refused.value.metadata["rule"] == "sandbox"
        first = node.kill_and_release(Pod(uid, containers=(made[0][0],)), wait=Wait.EXITED, timeout=30)
        assert [process.pid for process in first.processes] == [victims[0].pid]
        assert not victims[1].exited(0)

        rest = node.kill_and_release(Pod(uid), wait=Wait.EXITED, timeout=30)
        assert [process.pid for process in rest.processes] == [victims[1].pid]
        assert pause.poll() is None
        assert not other.exited(0)


def test_sharers_of_one_address_space_in_the_target_die_together(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.clone_vm_sharer(SIZE, within=[group]) as victim:
        result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=30)
        assert {process.pid for process in result.processes} == {victim.pid, victim.sharer_pid}
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED), result


def test_a_sharer_outside_of_the_target_is_named(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.clone_vm_sharer(SIZE) as victim:
        group.add(victim.pid)
        result = node.kill_and_release(Container(cid), timeout=0.5)
        (process,) = result.processes
        assert process.outcome is Outcome.SHARED_MM
        assert process.sharing_pids == (victim.sharer_pid,)
        assert result.verdict is Verdict.HELD


def test_a_container_with_a_process_in_d_state_gives_all_back(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.unkillable(SIZE, within=[group]) as stuck, lab.live(SIZE, within=[group]) as other:
        result = node.kill_and_release(Container(cid), timeout=30)
        assert result.verdict is Verdict.RELEASED, result
        assert {process.pid for process in result.processes} == {stuck.pid, other.pid}
        assert result.released_bytes >= 2 * SIZE * 0.98


def test_release_of_a_container_touches_only_the_dying(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.d_state(SIZE, within=[group]) as dying, lab.live(SIZE, within=[group]) as alive:
        result = node.release(Container(cid), timeout=5)
        outcomes = {process.pid: process.outcome for process in result.processes}
        assert outcomes == {dying.pid: Outcome.RELEASED, alive.pid: Outcome.NOT_DYING}
        assert result.verdict is Verdict.PARTIAL
        assert not alive.exited(0)


def test_release_of_a_living_container_is_refused(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.live(SIZE, within=[group]) as alive:
        with pytest.raises(errors.NotDying):
            node.release(Container(cid))
        assert not alive.exited(0)


def test_a_cgroup_dies_with_all_below_it(node: Client, here: Node) -> None:
    with contextlib.ExitStack() as stack:
        groups = [stack.enter_context(cgroup_below(here.group, path)) for path in ("job", "job/step", "job/step/task", "jobs")]
        victims = [stack.enter_context(lab.live(SIZE, within=[group])) for group in groups]
        result = node.kill_and_release(Cgroup(here.path(groups[0])), wait=Wait.EXITED, timeout=30)
        assert {process.pid for process in result.processes} == {victim.pid for victim in victims[:3]}
        assert not victims[3].exited(0)


def test_files_of_a_tmpfs_that_stay_are_reported(node: Client, here: Node, tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        pytest.skip("no writable /dev/shm")
    name = shm / f"mrelease-test-{uuid.uuid4().hex}"
    with container(here) as (cid, group):
        script = (
            f"import signal\nopen({str(group.path / 'cgroup.procs')!r}, 'w').write('0')\n"
            f"open({str(name)!r}, 'wb').write(bytes({8 * MIB}))\nprint(flush=True)\nsignal.pause()"
        )
        try:
            with subprocess.Popen([sys.executable, "-S", "-E", "-c", script], stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                writer.stdout.readline()
                result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=30)
            (left,) = result.unreleased
            assert left.size_bytes >= 8 * MIB
        finally:
            name.unlink(missing_ok=True)


def test_validate_only_names_who_would_die(node: Client, here: Node) -> None:
    with container(here) as (cid, group), lab.live(SIZE, within=[group]) as victim:
        result = node.kill_and_release(Container(cid), validate_only=True)
        assert result.verdict is Verdict.VALIDATED
        assert [process.pid for process in result.processes] == [victim.pid]
        assert not victim.exited(0)


def test_targets_that_are_not_there_or_must_live(node: Client, here: Node) -> None:
    tree = cgroup_tree.tree("memory")
    assert tree is not None
    proc = os.open("/proc/self", os.O_PATH)
    try:
        own = tree.path_of(proc)
    finally:
        os.close(proc)
    assert own is not None
    with container(here) as (empty, _):
        for target in (Container(secrets.token_hex(32)), Pod(str(uuid.uuid4())), Cgroup("/no/such/cgroup"), Container(empty)):
            with pytest.raises(errors.TargetNotFound):
                node.kill_and_release(target)
    for path in ("/", own):
        with pytest.raises(errors.Protected):
            node.kill_and_release(Cgroup(path))
    for malformed in (Container("trainer"), Pod("../.."), Cgroup("relative"), Cgroup("/a/../b"), Cgroup("/a/\n")):
        with pytest.raises(errors.InvalidField) as refused:
            node.kill_and_release(malformed)
        assert refused.value.metadata["field"].startswith("target.")


def test_processes_are_listed_by_container_with_what_they_belong_to(node: Client, here: Node) -> None:
    with contextlib.ExitStack() as stack:
        uid, path = stack.enter_context(pod(here))
        cid, group = stack.enter_context(container(here, path))
        victim = stack.enter_context(lab.live(SIZE, within=[group]))
        stack.enter_context(lab.live(SIZE))
        (listed,) = node.list_processes(within=Container(cid)).processes
        assert listed.process.pid == victim.pid
        assert (listed.container_id, listed.pod_uid, listed.qos.name) == (cid, uid, "BEST_EFFORT")


@contextlib.contextmanager
def _fence(group: lab.Cgroup) -> Generator[lab.Cgroup, None, None]:
    """Where the number of processes of ``group`` can be limited: itself on v2, a group of another hierarchy on v1."""
    if group.version == 2:
        yield group
    else:
        with lab.cgroup("pids") as fence:
            yield fence


@contextlib.contextmanager
def _pause(group: lab.Cgroup) -> Generator[subprocess.Popen[bytes], None, None]:
    """A process as small as a sandbox's, and the first of its pod."""
    start = f"echo $$ > {group.path / 'cgroup.procs'}; echo; exec sleep 1000"
    with subprocess.Popen(["/bin/sh", "-c", start], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        lab.until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "the sandbox runs")
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_memory_that_outlives_all_of_a_container_is_not_called_back(node: Client, here: Node) -> None:
    """All its processes have exited, and somebody outside reads the memory of one: it stays charged, and the result says so."""
    with container(here) as (cid, group), lab.pinned(SIZE, within=[group]), lab.live(SIZE, within=[group]):
        # Time enough to exit by themselves: reaped before that, the memory would come back in spite of the reader.
        result = node.kill_and_release(Container(cid), reap_delay=1.0, timeout=5)
        assert result.verdict is Verdict.PARTIAL
        assert SIZE * 0.9 <= result.released_bytes < SIZE * 1.5
        held = [each for each in result.unreleased if each.cause is UnreleasedCause.HELD]
        assert sum(each.size_bytes for each in held) >= SIZE * 0.9


def test_who_is_gone_before_its_turn_is_in_the_result_all_the_same(node: Client, here: Node) -> None:
    """cgroup.kill reaches all at once: most of a hundred are reaped by their parent before the agent comes to them."""
    with container(here) as (cid, group), contextlib.ExitStack() as stack:
        groups = [group]
        unified = cgroup_tree.tree("unified")
        if group.version == 1 and unified is not None:  # v2 beside it, with the same path: there the group can be killed at once
            path = here.path(group).strip("/")
            groups.append(stack.enter_context(cgroup_below(lab.Cgroup(Path(unified.mount.path), 2), path)))
        script = (
            "import os, signal, sys\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
            "for _ in range(100):\n    if os.fork() == 0:\n        [open(name, 'w').write('0') for name in sys.argv[1:]]\n"
            "        memory = bytearray(1 << 20)\n        os.write(1, b'x')\n        signal.pause()\nsignal.pause()"
        )
        procs = [str(each.path / "cgroup.procs") for each in groups]
        parent = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-E", "-c", script, *procs], stdout=subprocess.PIPE))
        stack.callback(parent.kill)
        assert parent.stdout is not None
        assert len(parent.stdout.read(100)) == 100
        result = node.kill_and_release(Container(cid), wait=Wait.EXITED, timeout=60)
        assert len(result.processes) == 100
        assert result.verdict in (Verdict.RELEASED, Verdict.EXITED)
        assert result.released_bytes >= (100 << 20) * 0.98
