"""Containers, pods and cgroups found on the real hierarchies, with real processes in them: v1's memory hierarchy and v2."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrelease_agent.linux import procfs
from mrelease_agent.targets import groups
from mrelease_agent.targets.cgroup_path import Qos, Runtime
from mrelease_agent.targets.group_errors import (
    AmbiguousGroupError,
    GroupNotFoundError,
    InvalidGroupError,
    RefusedGroupError,
)
from support import lab
from support.places import SMALL, Place, new_id, new_uid, slice_of


@pytest.fixture
def pause(tmp_path: Path) -> Path:
    """A small program that is called pause."""
    sleep = shutil.which("sleep")
    assert sleep
    return Path(shutil.copy(sleep, tmp_path / "pause"))


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
