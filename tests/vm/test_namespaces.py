"""An agent in a cgroup namespace of its own, as in a container that is not privileged, on a hierarchy mounted with nsdelegate."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from mrelease import Client, Container, Feature, Outcome, Process, Verdict, Wait, errors
from support import lab
from support.agent import running_agent
from support.lab.cgroups import cgroup_below

SIZE = 32 * lab.MIB

pytestmark = pytest.mark.usefixtures("process_mrelease")

#: Enters a group, then a cgroup namespace of which that is the root; with "own" it also sees no more of the hierarchy than that.
_ENTER = """
echo $$ >"$1/cgroup.procs"; own=$2; shift 2
[ "$own" ] || exec unshare --cgroup -- "$@"
exec unshare --cgroup --mount -- sh -c 'umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"' - "$@"
"""


@contextlib.contextmanager
def confined(folder: Path, *, own_mount: bool) -> Generator[Client, None, None]:
    with lab.memory_cgroup() as group:
        prefix = ["sh", "-ec", _ENTER, "-", str(group.path), "own" if own_mount else ""]
        with running_agent(folder, prefix=prefix) as agent, agent.client() as client:
            yield client


@pytest.fixture
def box() -> Iterator[tuple[str, lab.Cgroup]]:
    """A container of the node's."""
    cid = secrets.token_hex(32)
    with lab.memory_cgroup() as pod, cgroup_below(pod, f"k8s.io/{cid}", ["memory"]) as group:
        yield cid, group


def test_the_hierarchy_is_mounted_with_nsdelegate() -> None:
    (options,) = [line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    assert "nsdelegate" in options.split(",")


def test_with_the_nodes_hierarchy_containers_are_found_killed_and_proven(run_dir: Path, box: tuple[str, lab.Cgroup]) -> None:
    cid, group = box
    with confined(run_dir, own_mount=False) as node, lab.unkillable(SIZE, within=[group]) as stuck, lab.live(SIZE, within=[group]) as other:
        assert node.get_node().can(Feature.MEMORY_CGROUP)
        result = node.kill_and_release(Container(cid), timeout=60)
        assert result.verdict is Verdict.RELEASED, result
        assert {process.pid for process in result.processes} == {stuck.pid, other.pid}
        (charge,) = result.cgroups
        assert charge.before_bytes - charge.after_bytes >= 2 * SIZE * 0.95
        assert other.exited()


def test_without_it_processes_are_released_and_containers_are_not_found(run_dir: Path, box: tuple[str, lab.Cgroup]) -> None:
    cid, group = box
    with confined(run_dir, own_mount=True) as node, lab.unkillable(SIZE, within=[group]) as stuck, lab.live(SIZE, within=[group]) as other:
        with pytest.raises(errors.TargetNotFound):
            node.kill_and_release(Container(cid))
        assert not other.exited(0)
        (killed,) = node.kill_and_release(Process(stuck.pid), timeout=60).processes
        assert killed.outcome is Outcome.RELEASED, killed
        assert killed.released_bytes >= SIZE * 0.98
        (killed,) = node.kill_and_release(Process(other.pid), timeout=60, wait=Wait.EXITED).processes
        assert killed.outcome in (Outcome.RELEASED, Outcome.EXITED), killed


def test_it_says_which_boosts_its_namespace_forbids(run_dir: Path) -> None:
    with confined(run_dir, own_mount=False) as node:
        said = {capability.feature: capability for capability in node.get_node().capabilities}
        evacuation = said[Feature.BOOST_EVACUATION]
        assert not evacuation.available
        assert "cannot be moved" in evacuation.reason
        assert "namespace" in evacuation.remedy
        assert said[Feature.BOOST_LIFT].available, said[Feature.BOOST_LIFT]
