"""What a group holds: its charge, who is in it and dies with it, across namespaces, and with a real runtime."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets import groups
from mrelease_agent.targets.group import Group, numbers_in_container
from mrelease_agent.targets.group_errors import (
    RefusedGroupError,
)
from support import lab
from support.lab.cgroups import cgroup_below
from support.lab.kernel import libc
from support.places import SMALL, Place, new_id, new_uid


def refusal(path: str, tree: Tree) -> tuple[str, int]:
    with pytest.raises(RefusedGroupError) as caught:
        groups.cgroup(path, tree)
    assert caught.value.remedy
    return caught.value.rule, caught.value.pid


PR_SET_DUMPABLE = 4


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
