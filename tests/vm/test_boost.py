"""Boosting where cgroup v2 has every controller and the kernel no RT_GROUP_SCHED, as on most nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrelease_agent.boosting import busy
from mrelease_agent.linux.node import kernel_version
from mrelease_agent.linux.scheduling import Raised
from support import lab
from support.boosted import booster, cpu_tree, ref_to
from support.lab.starvation import pod, starved_below

SMALL = 4 * lab.MIB

_SAY = """
import json, pathlib, sys
from mrelease_agent.boosting.booster import Booster
booster = Booster(pathlib.Path(sys.argv[1]))
print(json.dumps([[found.feature.name, found.available, found.reason, found.remedy] for found in booster.features()]))
booster.close()
"""
#: Enters a group, then a cgroup namespace of which that is the root.
_ENTER = 'echo $$ >"$1/cgroup.procs" && shift && exec unshare --cgroup -- "$@"'


def features(state: Path, *prefix: str) -> dict[str, tuple[bool, str, str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*prefix, sys.executable, "-c", _SAY, str(state)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return {name: (works, reason, remedy) for name, works, reason, remedy in json.loads(said)}


def test_real_time_works_in_every_cgroup_and_is_the_rung_to_take(tmp_path: Path) -> None:
    assert "in every cgroup" in features(tmp_path)["BOOST_PRIORITY"][1]
    with (
        pod() as starving,
        booster(tmp_path) as made,
        lab.live(SMALL, within=[starving.container]) as victim,
        lab.hold_at_exit(victim) as hold,
        ref_to(victim) as ref,
    ):
        assert made.realtime(ref)
        victim.kill()
        hold.wait_held()
        assert made.prioritise(ref) is Raised.REALTIME
        assert os.sched_getscheduler(victim.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR


def test_starved_victim_dies_by_real_time_alone(tmp_path: Path) -> None:
    with pod() as starving, booster(tmp_path) as made, starved_below(starving, SMALL) as victim, ref_to(victim) as ref:
        assert made.needed(ref)
        victim.kill()
        assert made.prioritise(ref) is Raised.REALTIME
        assert victim.exited()


def test_cgroup_namespace_of_its_own_forbids_moves_says_so_and_leaves_the_other_rungs(tmp_path: Path) -> None:
    with lab.memory_cgroup() as group:
        said = features(tmp_path, "sh", "-ec", _ENTER, "-", str(group.path))
    works, reason, remedy = said["BOOST_EVACUATION"]
    assert not works
    assert "nsdelegate" in reason
    assert "privileged" in remedy
    assert said["BOOST_LIFT"][0]
    assert said["BOOST_PRIORITY"][0]


def test_limited_victim_has_to_wait_and_real_time_ends_that(tmp_path: Path) -> None:
    """1 % of a CPU, on an idle node: before Linux 6.18 the victim is throttled in the middle of its exit."""
    with (
        pod() as starving,
        booster(tmp_path) as made,
        lab.live(SMALL, within=[starving.container]) as victim,
        ref_to(victim) as ref,
    ):
        assert not busy.throttled(ref, cpu_tree(), 1 << 30)
        starving.pod.write("cpu.max", "1000 100000")
        assert busy.throttled(ref, cpu_tree(), 1 << 30)
        assert not busy.throttled(ref, cpu_tree(), 4096)
        victim.kill()
        assert made.prioritise(ref) is Raised.REALTIME
        assert victim.exited()


@pytest.mark.skipif(kernel_version() >= (6, 18), reason="since Linux 6.18 a thread in the kernel is not throttled")
def test_limit_alone_makes_a_boost_needed(tmp_path: Path) -> None:
    with (
        pod() as starving,
        booster(tmp_path) as made,
        lab.live(256 * lab.MIB, within=[starving.container]) as victim,
        ref_to(victim) as ref,
    ):
        starving.pod.write("cpu.max", "1000 100000")
        assert made.needed(ref)
        starving.pod.write("cpu.max", "max")


def test_where_cpu_time_is_not_distributed_there_is_nothing_to_escape_from(tmp_path: Path) -> None:
    top = Path(cpu_tree().mount.path) / "cgroup.subtree_control"
    top.write_text("-cpu")
    try:
        said = features(tmp_path)
    finally:
        top.write_text("+cpu")
    for name in ("BOOST_EVACUATION", "BOOST_LIFT"):
        works, reason, remedy = said[name]
        assert not works
        assert "cgroup.subtree_control" in reason
        assert "BOOST_PRIORITY" in remedy
    assert said["BOOST_PRIORITY"][0]
