"""What an agent says of the rungs: which work here, and why the others do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from support import lab
from support.boosted import booster, cpu_tree

_SAY = """
import json, pathlib, sys
from mrelease_agent.boosting.booster import Booster
state = pathlib.Path(sys.argv[1]) if sys.argv[1] else None
booster = Booster(state)
print(json.dumps([[found.feature.name, found.available, found.reason, found.remedy] for found in booster.features()]))
booster.close()
"""


class Said(NamedTuple):
    works: bool
    reason: str
    remedy: str


def features(state: Path | None, prefix: Sequence[str] = ()) -> dict[str, Said]:
    """Of an agent of its own: it forks to find out."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*prefix, sys.executable, "-c", _SAY, str(state or "")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return {name: Said(*rest) for name, *rest in json.loads(said)}


def need(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        raise lab.Unavailable(f"{tool} is not installed")
    return found


def test_root_has_every_rung_that_the_node_has(tmp_path: Path) -> None:
    lab.need_root("every rung")
    cpu_tree()
    said = features(tmp_path)
    assert set(said) == {"BOOST_PRIORITY", "BOOST_EVACUATION", "BOOST_LIFT"}
    assert all(each.works and each.reason and not each.remedy for each in said.values()), said
    assert "SCHED_RR" in said["BOOST_PRIORITY"].reason
    assert "mrelease.boost" in said["BOOST_EVACUATION"].reason


def test_whoever_asks_what_is_off_says_why_and_what_to_change(tmp_path: Path) -> None:
    for each in features(tmp_path).values():
        assert each.reason
        assert each.works or each.remedy


def test_nothing_is_left_behind_by_finding_out(tmp_path: Path) -> None:
    lab.need_root("moving a process")
    features(tmp_path)
    assert not (tmp_path / "boost.journal").stat().st_size


def test_without_a_directory_there_is_no_lift() -> None:
    lift = features(None)["BOOST_LIFT"]
    assert not lift.works
    assert lift.remedy


def test_directory_that_cannot_be_written_and_journal_of_another_agent_turn_lift_off(tmp_path: Path) -> None:
    cpu_tree()
    (tmp_path / "taken").mkdir()
    with booster(tmp_path / "taken"):
        assert "in use by another agent" in features(tmp_path / "taken")["BOOST_LIFT"].reason
    assert "cannot be opened" in features(tmp_path / "missing")["BOOST_LIFT"].reason


def test_without_cap_sys_nice_nobody_is_raised(tmp_path: Path) -> None:
    lab.need_root("giving a capability up")
    said = features(tmp_path, [need("setpriv"), "--bounding-set", "-sys_nice", "--inh-caps", "-sys_nice"])
    assert not said["BOOST_PRIORITY"].works
    assert "CAP_SYS_NICE" in said["BOOST_PRIORITY"].reason
    assert said["BOOST_EVACUATION"].works


def test_read_only_hierarchy_leaves_priority_alone(tmp_path: Path) -> None:
    lab.need_root("a mount namespace")
    mount = cpu_tree().mount.path
    script = f'mount -o remount,bind,ro {mount} && exec "$@"'
    said = features(tmp_path, [need("unshare"), "--mount", "sh", "-ec", script, "-"])
    for name in ("BOOST_EVACUATION", "BOOST_LIFT"):
        assert not said[name].works
        assert "Read-only" in said[name].reason
        assert "hostPath" in said[name].remedy
    assert said["BOOST_PRIORITY"].works


@pytest.mark.parametrize("syscall", ["sched_setscheduler"])
def test_seccomp_filter_that_refuses_classes_leaves_nice_values(tmp_path: Path, syscall: str) -> None:
    lab.need_root("raising nice values")
    said = features(tmp_path, lab.filtered([], error="EPERM", syscall=syscall))
    assert said["BOOST_PRIORITY"].works
    assert "nice -20" in said["BOOST_PRIORITY"].reason
