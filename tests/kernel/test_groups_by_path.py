"""Cgroups by their path: opened, or refused because the agent, a pod or a part of a container is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.targets import groups
from mrelease_agent.targets.group_errors import (
    InvalidGroupError,
    RefusedGroupError,
)
from support import lab
from support.places import Place, new_id, new_uid

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
