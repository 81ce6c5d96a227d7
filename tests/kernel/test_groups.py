"""Containers, pods and cgroups found on the real hierarchies, with real processes in them: v1's memory hierarchy and v2."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets import groups
from mrelease_agent.targets.cgroup_path import Qos, Runtime
from mrelease_agent.targets.group import Group, numbers_in_container
from mrelease_agent.targets.group_errors import (
    AmbiguousGroupError,
    GroupNotFoundError,
    InvalidGroupError,
    RefusedGroupError,
)
from support import lab
from support.lab.cgroups import cgroup_below
from support.lab.kernel import libc

SMALL = 4 * lab.MIB
PR_SET_DUMPABLE = 4


@dataclass(slots=True)
class Place:
    """A group of the lab in one hierarchy, below which a test makes what it needs."""

    tree: Tree
    group: lab.Cgroup
    made: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def path(self, group: lab.Cgroup | None = None) -> str:
        """Canonical path of a group."""
        return self.tree.top.rstrip("/") + "/" + str((group or self.group).path.relative_to(self.tree.mount.path))

    def make(self, path: str, *controllers: str) -> lab.Cgroup:
        return self.made.enter_context(cgroup_below(self.group, path, controllers))

    def victim(self, group: lab.Cgroup, size: int = SMALL) -> lab.Victim:
        return self.made.enter_context(lab.live(size, within=[group]))

    def small(self, group: lab.Cgroup, program: str | Path = "sleep") -> int:
        """A process with hardly any memory, in a group; started in a later clock tick than all before."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        lab.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > now + 2 / os.sysconf("SC_CLK_TCK"), "the next clock tick")
        process = self.made.enter_context(subprocess.Popen([str(program), "infinity"]))
        self.made.callback(process.kill)
        group.add(process.pid)
        comm = Path(f"/proc/{process.pid}/comm")
        lab.until(lambda: comm.read_text().strip() == Path(program).name, "exec")
        return process.pid


@contextlib.contextmanager
def as_nobody() -> Generator[None, None, None]:
    """This process as another user, as one is that was started so: before Linux 5.14 its /proc files are else not its own."""
    try:
        os.seteuid(lab.NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        yield
    finally:
        os.seteuid(0)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


@pytest.fixture(params=["memory", "unified"])
def place(request: pytest.FixtureRequest) -> Generator[Place, None, None]:
    tree = cgroup_tree.tree(request.param)
    if tree is None:
        raise lab.Unavailable(f"no {request.param} hierarchy is mounted")
    with lab.cgroup("memory" if request.param == "memory" else "") as group:
        here = Place(tree, group)
        with here.made:
            yield here


@pytest.fixture
def memory_place() -> Generator[Place, None, None]:
    tree = cgroup_tree.tree("memory")
    if tree is None:
        raise lab.Unavailable("no memory hierarchy is mounted")
    with lab.memory_cgroup() as group:
        here = Place(tree, group)
        with here.made:
            yield here


@pytest.fixture
def unified_place() -> Generator[Place, None, None]:
    tree = cgroup_tree.tree("unified")
    if tree is None:
        raise lab.Unavailable("no v2 hierarchy is mounted")
    with lab.cgroup() as group:
        here = Place(tree, group)
        with here.made:
            yield here


@pytest.fixture
def pause(tmp_path: Path) -> Path:
    """A small program that is called pause."""
    sleep = shutil.which("sleep")
    assert sleep
    return Path(shutil.copy(sleep, tmp_path / "pause"))


def new_id() -> str:
    return secrets.token_hex(32)


def new_uid() -> str:
    return str(uuid.uuid4())


def slice_of(uid: str) -> str:
    return f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"


def gone(pid: int) -> bool:
    try:
        proc = procfs.open_process(pid)
    except ProcessGoneError:
        return True
    try:
        return procfs.stat(proc).state == "Z"
    except ProcessGoneError:
        return True
    finally:
        os.close(proc)


# Finding


def test_container_is_found_by_its_id_with_all_that_runs_in_cgroups_below_its_own(place: Place) -> None:
    id_, uid = new_id(), new_uid()
    own, stranger = place.make(f"kubepods/besteffort/pod{uid}/{id_}"), place.make(f"kubepods/besteffort/pod{uid}/{new_id()}")
    below = place.make(f"kubepods/besteffort/pod{uid}/{id_}/system.slice/x.service")
    pids = sorted([place.victim(own).pid, place.victim(below).pid])
    other = place.victim(stranger).pid

    for name in (id_, id_[:12], id_[:40]):
        with groups.container(name, place.tree) as group:
            assert group.path == place.path(own)
            assert group.members() == pids
            assert not group.is_empty()
            known = group.membership
            assert (known.container_id, known.pod_uid, known.qos, known.runtime) == (id_, uid, Qos.BEST_EFFORT, Runtime.CONTAINERD)
            for pid in (*pids, other):
                proc = procfs.open_process(pid)
                assert group.holds(proc) == (pid in pids)
                assert groups.membership(proc, place.tree).pod_uid == uid
                os.close(proc)


def test_prefix_of_two_ids_is_ambiguous_and_names_both(place: Place) -> None:
    one = new_id()
    two = one[:20] + new_id()[:44]
    for id_ in (one, two):
        place.make(f"docker/{id_}")
    with pytest.raises(AmbiguousGroupError) as caught:
        groups.container(one[:14], place.tree)
    assert caught.value.field == "container.id"
    assert caught.value.candidates == tuple(sorted([one, two]))
    groups.container(one, place.tree).close()


def test_same_id_twice_is_ambiguous_and_names_the_paths(place: Place) -> None:
    id_ = new_id()
    paths = [place.path(place.make(f"{parent}/{id_}")) for parent in ("docker", "default")]
    with pytest.raises(AmbiguousGroupError) as caught:
        groups.container(id_, place.tree)
    assert sorted(caught.value.candidates) == sorted(paths)


def test_what_does_not_exist_is_not_found(place: Place) -> None:
    for call in (
        lambda: groups.container(new_id(), place.tree),
        lambda: groups.pod(new_uid(), tree=place.tree),
        lambda: groups.cgroup(place.path() + "/none", place.tree),
    ):
        with pytest.raises(GroupNotFoundError) as caught:
            call()
        assert caught.value.remedy


@pytest.mark.parametrize("id_", ["", "abc", "a" * 11, "A" * 64, "g" * 64, "a" * 65, "containerd://" + "a" * 64, "a" * 64 + "\n", "*" * 64])
def test_malformed_container_id_is_invalid(id_: str) -> None:
    for call in (lambda: groups.container(id_), lambda: groups.pod(new_uid(), [id_])):
        with pytest.raises(InvalidGroupError):
            call()


@pytest.mark.parametrize("uid", ["", "x", new_uid().upper(), new_uid().replace("-", "_"), new_uid() + "\n", "../" + new_uid(), "a" * 31])
def test_malformed_pod_uid_is_invalid(uid: str) -> None:
    with pytest.raises(InvalidGroupError) as caught:
        groups.pod(uid)
    assert caught.value.field == "pod.uid"


def test_cgroup_that_a_user_made_does_not_make_a_pod_ambiguous(place: Place) -> None:
    lab.need_root("giving a cgroup away")
    uid, id_ = new_uid(), new_id()
    real = place.make(f"kubepods/burstable/pod{uid}/{id_}")
    for forged in (f"user/kubepods/burstable/pod{uid}", f"user/kubepods/burstable/pod{uid}/{id_}"):
        os.chown(place.make(forged).path, lab.NOBODY, lab.NOBODY)
    place.make(f"docker/{new_id()}/kubepods/burstable/pod{uid}/{id_}")
    with groups.pod(uid, tree=place.tree) as pod:
        assert [group.path for group in pod.containers] == [place.path(real)]
    with groups.container(id_, place.tree) as group:
        assert group.path == place.path(real)


# Pods and sandboxes


def test_pod_is_found_with_its_containers_but_neither_sandbox_nor_monitor(place: Place, pause: Path) -> None:
    uid, box, one, two = new_uid(), new_id(), new_id(), new_id()
    parent = slice_of(uid)
    box_pid = place.small(place.make(f"{parent}/cri-containerd-{box}.scope"), pause)
    pids: list[int] = []
    for id_ in (one, two):
        place.small(place.make(f"{parent}/crio-conmon-{id_}.scope"))
        pids.append(place.small(place.make(f"{parent}/cri-containerd-{id_}.scope")))
        pids.append(place.victim(place.make(f"{parent}/cri-containerd-{id_}.scope/sub")).pid)

    with groups.pod(uid, tree=place.tree) as pod:
        assert {group.membership.container_id for group in pod.containers} == {one, two}
        assert pod.sandboxes == {box}
        assert pod.path == place.path(place.make(parent))
        assert sorted(pid for group in pod.containers for pid in group.members()) == sorted(pids)
        assert box_pid not in pids
    with groups.pod(uid, [two[:12]], place.tree) as pod:
        assert [group.membership.container_id for group in pod.containers] == [two]
    with pytest.raises(GroupNotFoundError):
        groups.pod(uid, [new_id()], place.tree)
    for call in (
        lambda: groups.pod(uid, [one, box], place.tree),
        lambda: groups.container(box, place.tree),
        lambda: groups.cgroup(f"{place.path()}/{parent}/cri-containerd-{box}.scope", place.tree),
    ):
        with pytest.raises(RefusedGroupError) as caught:
            call()
        assert caught.value.rule == "sandbox"


def test_process_that_calls_itself_pause_but_started_later_or_holds_memory_is_no_sandbox(place: Place, pause: Path) -> None:
    uid, first, named = new_uid(), new_id(), new_id()
    parent = f"kubepods/pod{uid}"
    place.victim(place.make(f"{parent}/{first}"))
    place.small(place.make(f"{parent}/{named}"), pause)
    with groups.pod(uid, tree=place.tree) as pod:
        assert pod.sandboxes == frozenset()
        assert len(pod.containers) == 2


def test_container_with_memory_is_no_sandbox_although_it_is_called_pause_and_started_first(place: Place, tmp_path: Path) -> None:
    uid, id_ = new_uid(), new_id()
    program = Path(shutil.copy(sys.executable, tmp_path / "pause"))
    code = f"import time; x = bytearray({SMALL}); print(flush=True); time.sleep(1000)"
    box = place.make(f"kubepods/pod{uid}/{id_}")
    environment = {"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": str(Path(sys.base_prefix) / "lib")}
    process = place.made.enter_context(subprocess.Popen([str(program), "-I", "-S", "-c", code], stdout=subprocess.PIPE, env=environment))
    place.made.callback(process.kill)
    assert process.stdout
    assert process.stdout.readline()
    box.add(process.pid)
    place.small(place.make(f"kubepods/pod{uid}/{new_id()}"))
    with groups.pod(uid, tree=place.tree) as pod:
        assert pod.sandboxes == frozenset()


def test_sandbox_whose_containers_have_ended_is_spared(place: Place, pause: Path) -> None:
    uid, box = new_uid(), new_id()
    place.small(place.make(f"kubepods/pod{uid}/{box}"), pause)
    with groups.pod(uid, tree=place.tree) as pod:
        assert pod.containers == ()
        assert pod.sandboxes == {box}


def test_small_first_container_that_shares_namespaces_is_the_sandbox_but_not_for_cri_o(place: Place) -> None:
    for prefix, spared in (("cri-containerd", 1), ("crio", 0)):
        uid = new_uid()
        place.small(place.make(f"{slice_of(uid)}/{prefix}-{new_id()}.scope"))
        place.small(place.make(f"{slice_of(uid)}/{prefix}-{new_id()}.scope"))
        with groups.pod(uid, tree=place.tree) as pod:
            assert len(pod.sandboxes) == spared


def test_only_container_of_a_pod_is_no_sandbox_for_being_small(place: Place) -> None:
    uid = new_uid()
    place.small(place.make(f"kubepods/pod{uid}/{new_id()}"))
    with groups.pod(uid, tree=place.tree) as pod:
        assert len(pod.containers) == 1


# Cgroups by path


def test_cgroup_is_opened_by_its_path(place: Place) -> None:
    group = place.make("batch/job 1/é")
    pid = place.victim(group).pid
    with groups.cgroup(place.path(group), place.tree) as found:
        assert found.members() == [pid]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "batch",
        "//",
        "/a//b",
        "/a/",
        "/a/./b",
        "/./a",
        "/..",
        "/a/../b",
        "/../../x",
        "/a\nb",
        "/a\0b",
        "/a\x7f",
        "/" + "a" * 256,
        "/a" * 2048,
    ],
)
def test_malformed_path_is_invalid(path: str) -> None:
    with pytest.raises(InvalidGroupError) as caught:
        groups.cgroup(path)
    assert (caught.value.field, caught.value.value) == ("cgroup.path", path)


def refusal(path: str, tree: Tree) -> tuple[str, int]:
    with pytest.raises(RefusedGroupError) as caught:
        groups.cgroup(path, tree)
    assert caught.value.remedy
    return caught.value.rule, caught.value.pid


def test_root_is_refused(place: Place) -> None:
    assert refusal("/", place.tree)[0] == "root"


def test_cgroup_of_the_agent_and_those_above_it_are_refused(place: Place) -> None:
    place.victim(place.make("x"))
    code = (
        "import sys; from mrelease_agent.linux import cgroup_tree; from mrelease_agent.targets import groups\n"
        "try: groups.cgroup(sys.argv[1], cgroup_tree.tree(sys.argv[2]))\n"
        "except groups.RefusedGroupError as refused: print(refused.rule, refused.pid == __import__('os').getpid())"
    )
    agent = place.make("agent.service")
    hierarchy = "memory" if place.tree is cgroup_tree.tree("memory") else "unified"
    for path in (place.path(agent), place.path()):
        enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(agent.path / "cgroup.procs")]
        said = subprocess.run([*enter, sys.executable, "-c", code, path, hierarchy], capture_output=True, text=True, check=True)
        assert said.stdout == "agent True\n"


def test_cgroup_of_an_ancestor_of_the_agent_is_refused(place: Place) -> None:
    group = place.make("shell")
    code = (
        "import sys; from mrelease_agent.linux import cgroup_tree; from mrelease_agent.targets import groups\n"
        "try: groups.cgroup(sys.argv[1], cgroup_tree.tree(sys.argv[2]))\n"
        "except groups.RefusedGroupError as refused: print(refused.rule, refused.pid == __import__('os').getppid())"
    )
    hierarchy = "memory" if place.tree is cgroup_tree.tree("memory") else "unified"
    # The shell enters the group after it has started the agent, which waits for that at its stdin.
    script = '(read line; exec "$0" -c "$1" "$2" "$3") <"$5" & echo $$ >"$4" && echo >"$5" && wait $!'
    gate = Path(place.made.enter_context(_temporary_fifo()))
    said = subprocess.run(
        ["sh", "-c", script, sys.executable, code, place.path(group), hierarchy, str(group.path / "cgroup.procs"), str(gate)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout == "ancestor-of-agent True\n"


@contextlib.contextmanager
def _temporary_fifo() -> Generator[str, None, None]:
    path = f"/tmp/mrelease-{uuid.uuid4().hex}"
    os.mkfifo(path)
    try:
        yield path
    finally:
        Path(path).unlink()


def test_pod_and_what_holds_pods_is_refused_as_a_cgroup(place: Place) -> None:
    place.make(f"kubepods/besteffort/pod{new_uid()}/{new_id()}")
    paths = [place.path(), f"{place.path()}/kubepods", f"{place.path()}/kubepods/besteffort"]
    pod = next((place.group.path / "kubepods/besteffort").glob("pod*"))
    for path in (*paths, f"{paths[-1]}/{pod.name}"):
        assert refusal(path, place.tree) == ("pod", 0)


def test_monitor_of_a_container_is_refused(place: Place) -> None:
    group = place.make(f"libpod_parent/libpod-conmon-{new_id()}")
    assert refusal(place.path(group), place.tree)[0] == "monitor"


def test_cgroup_that_holds_the_parent_of_a_container_is_refused(place: Place) -> None:
    service, box = place.make("containerd.service"), place.make(f"default/{new_id()}")
    shim = place.made.enter_context(subprocess.Popen(["sh", "-c", "sleep infinity & echo $!; wait"], stdout=subprocess.PIPE, text=True))
    place.made.callback(shim.kill)
    assert shim.stdout
    child = int(shim.stdout.readline())
    place.made.callback(os.kill, child, 9)
    service.add(shim.pid)
    assert groups.cgroup(place.path(service), place.tree).members() == [shim.pid]
    box.add(child)
    assert refusal(place.path(service), place.tree) == ("runtime", shim.pid)
    assert refusal(place.path(), place.tree) == ("runtime", shim.pid)
    with groups.cgroup(place.path(box), place.tree) as group:
        assert group.members() == [child]


def test_cgroup_that_holds_a_container_with_a_runtime_inside_is_not_refused(place: Place) -> None:
    outer = new_id()
    service, inner = place.make(f"docker/{outer}/dockerd"), place.make(f"docker/{outer}/docker/{new_id()}")
    shim = place.made.enter_context(subprocess.Popen(["sh", "-c", "sleep infinity & echo $!; wait"], stdout=subprocess.PIPE, text=True))
    place.made.callback(shim.kill)
    assert shim.stdout
    child = int(shim.stdout.readline())
    place.made.callback(os.kill, child, 9)
    service.add(shim.pid)
    inner.add(child)
    with groups.cgroup(place.path(), place.tree) as group:
        assert group.members() == sorted([shim.pid, child])


def test_file_is_no_cgroup(place: Place) -> None:
    assert refusal(place.path() + "/cgroup.procs", place.tree)[0] == "not-a-cgroup"


def test_mount_on_a_cgroup_is_not_followed(place: Place) -> None:
    lab.need_root("mounting")
    target, other = place.make("target"), place.make("other")
    place.victim(other)
    code = (
        "import subprocess, sys; from mrelease_agent.linux import cgroup_tree; from mrelease_agent.targets import groups\n"
        "subprocess.run(['mount', '--bind', sys.argv[3], sys.argv[4]], check=True)\n"
        "try: groups.cgroup(sys.argv[1], cgroup_tree.tree(sys.argv[2]))\n"
        "except groups.RefusedGroupError as refused: print(refused.rule)"
    )
    hierarchy = "memory" if place.tree is cgroup_tree.tree("memory") else "unified"
    said = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, place.path(target), hierarchy, str(other.path), str(target.path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Operation not permitted" in said.stderr:
        raise lab.Unavailable(f"mounting is not permitted: {said.stderr.strip()}")
    assert (said.stdout, said.stderr) == ("not-a-cgroup\n", "")


def test_kernel_takes_no_newline_in_the_name_of_a_cgroup(place: Place) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        (place.group.path / "a\nb").mkdir()
    assert caught.value.errno == errno.EINVAL


# Groups


def test_group_that_is_removed_stays_empty_when_another_one_takes_its_name(place: Place) -> None:
    with cgroup_below(place.group, "x") as first:
        found = Group(place.tree, place.path(first))
    with found:
        assert found.is_empty()
        assert found.members() == []
        place.victim(place.make("x"))
        assert found.members() == []
        assert found.is_empty()
        assert not found.kill()
        assert found.memory_usage() is None
        assert found.frozen() is None or place.tree.version == 1


def test_group_that_may_not_be_read_is_not_taken_for_an_empty_one(place: Place) -> None:
    lab.need_root("reading as another user")
    place.victim(place.make("x"))
    (place.group.path / "x/cgroup.procs").chmod(0)
    with Group(place.tree, place.path()) as group:
        with as_nobody(), pytest.raises(PermissionError):
            group.members()
        assert len(group.members()) == 1


def test_hidden_cgroup_hides_nothing_else_from_the_search_but_its_own_group(place: Place) -> None:
    lab.need_root("reading as another user")
    id_ = new_id()
    pid = place.victim(place.make(f"docker/{id_}")).pid
    hidden = place.make(f"docker/{new_id()}/x").path
    hidden.chmod(0)
    hidden.parent.chmod(0)
    with Group(place.tree, place.path()) as whole, as_nobody():
        with groups.container(id_, place.tree) as group:
            assert group.members() == [pid]
        with pytest.raises(PermissionError):
            whole.members()


def test_charge_of_a_group_is_read(memory_place: Place) -> None:
    own = memory_place.make("x/y", "memory")
    victim = memory_place.victim(own, 32 * lab.MIB)
    with Group(memory_place.tree, memory_place.path(memory_place.make("x"))) as group:
        before = group.memory_usage()
        assert before is not None
        assert before >= 32 * lab.MIB
        victim.kill()
        assert victim.exited()
        lab.until(group.is_empty, "the group is empty")
        assert (group.memory_usage() or 0) < before // 2


def test_cgroup_kill_kills_the_group_with_all_below_and_nothing_else(unified_place: Place) -> None:
    if lab.kernel_release() < (5, 14):
        raise lab.Unavailable("cgroup.kill came with Linux 5.14")
    group, beside = unified_place.make("x"), unified_place.make("y")
    victims = [unified_place.victim(group), unified_place.victim(unified_place.make("x/y/z"))]
    other = unified_place.victim(beside)
    with Group(unified_place.tree, unified_place.path(group)) as found:
        assert found.kill()
        assert all(victim.exited() for victim in victims)
        lab.until(found.is_empty, "the group is empty")
    assert not other.exited(0)


@pytest.fixture
def twin(memory_place: Place) -> lab.Cgroup:
    """The v2 group with the path of a v1 group."""
    unified = cgroup_tree.tree("unified")
    if memory_place.tree.version == 2 or unified is None:
        raise lab.Unavailable("memory is not in a v1 hierarchy beside a v2 one here")
    # Removed with the place, after the victims.
    return memory_place.made.enter_context(cgroup_below(lab.Cgroup(Path(unified.mount.path), 2), memory_place.path().strip("/")))


def test_v1_group_is_killed_through_v2_where_that_has_the_same_members(memory_place: Place, twin: lab.Cgroup) -> None:
    victims = [memory_place.victim(memory_place.group), memory_place.victim(memory_place.make("x"))]
    for victim in victims:
        twin.add(victim.pid)
    with Group(memory_place.tree, memory_place.path()) as group:
        assert group.kill()
        assert all(victim.exited() for victim in victims)
        lab.until(group.is_empty, "the group is empty")
        assert not group.kill()


def test_v1_group_is_not_killed_through_v2_where_that_has_other_members(memory_place: Place, twin: lab.Cgroup) -> None:
    victims = [memory_place.victim(memory_place.group), memory_place.victim(memory_place.group)]
    twin.add(victims[0].pid)
    with lab.live(SMALL) as stranger, Group(memory_place.tree, memory_place.path()) as group:
        assert not group.kill()
        twin.add(victims[1].pid)
        twin.add(stranger.pid)
        assert not group.kill()
        assert not any(victim.exited(0) for victim in (*victims, stranger))


def test_frozen_v2_group_says_so_and_dies_of_cgroup_kill(unified_place: Place) -> None:
    victim = unified_place.victim(unified_place.make("x"))
    with Group(unified_place.tree, unified_place.path(unified_place.make("x"))) as group:
        assert group.frozen() is False
        unified_place.make("x").write("cgroup.freeze", "1")
        lab.until(lambda: group.frozen() is True, "the freezing")
        if group.kill():
            assert victim.exited()
        unified_place.make("x").write("cgroup.freeze", "0")


def test_frozen_v1_group_says_so(memory_place: Place) -> None:
    freezer = cgroup_tree.tree("freezer")
    if memory_place.tree.version == 2 or freezer is None:
        raise lab.Unavailable("no v1 freezer beside a v1 memory hierarchy here")
    with Group(memory_place.tree, memory_place.path()) as group:
        assert group.frozen() is None
        with cgroup_below(lab.Cgroup(Path(freezer.mount.path), 1), memory_place.path().strip("/")) as twin:
            assert group.frozen() is False
            twin.write("freezer.state", "FROZEN")
            assert group.frozen() is True
            twin.write("freezer.state", "THAWED")


def test_threaded_group_is_refused_and_its_processes_are_those_of_the_domain_above(unified_place: Place) -> None:
    domain, threaded = unified_place.make("x"), unified_place.make("x/y")
    threaded.write("cgroup.type", "threaded")
    pid = unified_place.victim(domain).pid
    assert refusal(unified_place.path(threaded), unified_place.tree)[0] == "threaded"
    with groups.cgroup(unified_place.path(domain), unified_place.tree) as group:
        assert group.members() == [pid]


# Namespaces


def test_agent_in_a_cgroup_namespace_finds_the_same_paths_as_the_node(place: Place) -> None:
    lab.need_root("a cgroup namespace")
    id_, uid = new_id(), new_uid()
    victim = place.victim(place.make(f"kubepods/burstable/pod{uid}/{id_}"))
    agent = place.make(f"kubepods/besteffort/pod{new_uid()}/{new_id()}")
    code = (
        "import json, sys; from mrelease_agent.linux import cgroup_tree, procfs; from mrelease_agent.targets import groups\n"
        "tree = cgroup_tree.tree(sys.argv[1])\n"
        "group = groups.container(sys.argv[2], tree)\n"
        "proc = procfs.open_process(int(sys.argv[3]))\n"
        "said = [tree.mount.root, group.path, group.members(), group.holds(proc), tree.path_of(proc)]\n"
        "print(json.dumps([*said, groups.membership(proc, tree).pod_uid, tree.path_of(procfs.open_process(procfs.os.getpid()))]))"
    )
    hierarchy = "memory" if place.tree is cgroup_tree.tree("memory") else "unified"
    enter = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(agent.path / "cgroup.procs"), "unshare", "--cgroup"]
    said = subprocess.run([*enter, sys.executable, "-c", code, hierarchy, id_, str(victim.pid)], capture_output=True, text=True, check=True)
    root, *rest = json.loads(said.stdout)
    assert set(root.strip("/").split("/")) == {".."}
    path = f"{place.path()}/kubepods/burstable/pod{uid}/{id_}"
    assert rest == [path, [victim.pid], True, path, uid, place.path(agent)]


def test_process_is_found_by_the_pid_that_it_has_in_its_container(place: Place) -> None:
    lab.need_root("a PID namespace")
    box = place.make(f"default/{new_id()}")
    script = f"echo $$ >{box.path}/cgroup.procs; exec unshare --pid --fork sh -c 'sleep infinity & echo; wait'"
    outer = place.made.enter_context(subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True))
    place.made.callback(outer.kill)
    assert outer.stdout
    assert outer.stdout.readline()
    with Group(place.tree, place.path(box)) as group:
        # unshare itself stays in the node's namespace: a container's oldest process is its init.
        (place.group.path / "cgroup.procs").write_text(str(outer.pid))
        init, sleeper = sorted(group.members(), key=lambda pid: pid)
        place.made.callback(os.kill, init, 9)
        assert numbers_in_container(group, 1) == (init, 1)
        assert numbers_in_container(group, 2) == (sleeper, 2)
        for absent in (3, init, 0, -1):
            with pytest.raises(ProcessGoneError):
                numbers_in_container(group, absent)


def test_pid_in_a_container_without_a_pid_namespace_of_its_own_is_the_nodes(place: Place) -> None:
    box = place.make(f"default/{new_id()}")
    pid = place.victim(box).pid
    with Group(place.tree, place.path(box)) as group:
        assert numbers_in_container(group, pid)[-1] == pid
        with pytest.raises(ProcessGoneError):
            numbers_in_container(group, os.getpid())


# A real runtime


@contextlib.contextmanager
def runc(folder: Path, cgroups_path: str, id_: str, script: str) -> Generator[None, None, None]:
    """A container of runc's with a static busybox as its root, in namespaces of its own."""
    lab.need_root("runc")
    program, busybox = shutil.which("runc"), shutil.which("busybox")
    if not program or not busybox:
        raise lab.Unavailable(f"not installed: {'busybox' if program else 'runc'}")
    (folder / "rootfs/bin").mkdir(parents=True)
    (folder / "rootfs/proc").mkdir()
    for name in ("busybox", "sh", "sleep"):
        shutil.copy(busybox, folder / "rootfs/bin" / name)
    subprocess.run([program, "spec"], cwd=folder, check=True)
    spec = json.loads((folder / "config.json").read_text())
    spec["process"].update(terminal=False, args=["/bin/sh", "-c", script], rlimits=[])
    spec["linux"]["cgroupsPath"] = cgroups_path
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] == "/proc"]
    spec["linux"].update(maskedPaths=[], readonlyPaths=[])
    (folder / "config.json").write_text(json.dumps(spec))
    command = [program, "--root", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        started = subprocess.run(
            [*command, "run", "--detach", id_], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    try:
        if started.returncode:
            raise lab.Unavailable(f"runc: {(folder / 'log').read_text().strip()[-300:]}")
        yield
    finally:
        subprocess.run([*command, "delete", "--force", id_], cwd=folder, check=False, capture_output=True)


def test_container_of_runc_is_found_listed_and_killed(memory_place: Place, tmp_path: Path) -> None:
    id_, uid = new_id(), new_uid()
    path = f"{memory_place.path()}/kubepods/besteffort/pod{uid}/{id_}"
    with _parents_removed(path), runc(tmp_path, path, id_, "sleep 1000 & echo $!; wait"):
        with groups.pod(uid, tree=memory_place.tree) as pod:
            assert [group.path for group in pod.containers] == [path]
        with groups.container(id_[:12]) as group:
            lab.until(lambda: (tmp_path / "log").read_text().endswith("\n"), "the pid of the container's second process")
            init, sleeper = (numbers_in_container(group, pid)[0] for pid in (1, int((tmp_path / "log").read_text())))
            assert group.members() == sorted([init, sleeper])
            lab.until(lambda: Path(f"/proc/{sleeper}/comm").read_text() == "sleep\n", "exec")
            os.kill(init, 9)
            lab.until(lambda: gone(init) and gone(sleeper), "the end of the container")
            lab.until(group.is_empty, "the group is empty")


@contextlib.contextmanager
def _parents_removed(path: str) -> Generator[None, None, None]:
    """runc makes the parents in every v1 hierarchy, and leaves them."""
    roots = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    folders = [Path(root + str(above)) for root in roots for above in (Path(path), *Path(path).parents)]
    missing = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        for folder in missing:
            if folder.exists():
                lab.until(partial(_removed, folder), f"{folder} can be removed")


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()
