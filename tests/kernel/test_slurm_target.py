"""Jobs of Slurm by their cgroups and their processes: real ones, in cgroups with the names that slurmd gives."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.targets import conformance
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.plugins import AmbiguousError, Found, FoundProcess, InvalidAttributeError, NotHereError, UnavailableError
from mrelease_agent.targets.slurm import Slurm, untracked
from support import lab, slurm_tree
from support.slurm_tree import node_name

VERSIONS = pytest.mark.parametrize("version", [1, 2])
#: Nobody's but a test's.
USER = 61237
#: Of the most jobs that a cluster has, MaxJobId, and far from those of a real one.
JOB = 67000000


@pytest.fixture
def made() -> Generator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def victims(made: contextlib.ExitStack) -> Generator[contextlib.ExitStack]:
    """Processes: they end before the cgroups that were ``made`` for them are removed."""
    del made
    with contextlib.ExitStack() as stack:
        yield stack


def sleeper(victims: contextlib.ExitStack) -> int:
    process = victims.enter_context(subprocess.Popen(["/bin/sleep", "1000"]))
    victims.callback(process.kill)
    return process.pid


def members(found: Found) -> set[int]:
    """Who is in the groups and among the processes, without those spared: their names are the test's own to know."""
    pids = {each.pid for each in found.processes}
    for each in found.groups:
        tree = cgroup_tree.tree(each.controller)
        assert tree is not None
        with Group(tree, each.path) as group:
            pids.update(group.members())
    return pids


def need_no_other_slurm() -> None:
    """Of a slurmstepd that has no process nobody knows whose it is, so it makes every stray ambiguous."""
    if untracked.look().stepds:
        raise lab.Unavailable("jobs of a real Slurm run on this machine just now")


def find(attributes: Mapping[str, str], strays: str = "none") -> Found:
    return Slurm({"stray_processes": strays}).find(attributes)


@VERSIONS
def test_a_job_conforms_to_what_a_target_has_to_be(version: int, made: contextlib.ExitStack, victims: contextlib.ExitStack) -> None:
    node = node_name()
    step = made.enter_context(slurm_tree.step(version, JOB, "0", node=node))
    stepd = victims.enter_context(slurm_tree.daemon("slurmstepd"))
    step.add(stepd.pid, *([] if version == 1 else ["slurm"]))
    pids = [sleeper(victims) for _ in range(3)]
    for pid in pids:
        step.add(pid, *(["task_0"] if version == 1 else ["user", "task_0"]))
    here = {"job": str(JOB), "step": "0", "node": node, "uid": "0"}
    conformance.check(lambda: Slurm({}), here=here, pids=pids, absent={"job": str(JOB + 1)})


@VERSIONS
def test_a_step_is_its_own_processes_and_a_job_those_of_all_its_steps(
    version: int, made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    node, task = node_name(), (["task_0"] if version == 1 else ["user", "task_0"])
    by_step: dict[str, int] = {}
    for name in ("0", "0+1", "1", "10", "batch", "extern", "interactive"):
        step = made.enter_context(slurm_tree.step(version, JOB, name, node=node))
        by_step[name] = sleeper(victims)
        step.add(by_step[name], *task)
    assert members(find({"job": str(JOB)})) == set(by_step.values())
    for name, pid in by_step.items():
        expected = {by_step["0"], by_step["0+1"]} if name == "0" else {pid}
        assert members(find({"job": str(JOB), "step": name})) == expected
    with pytest.raises(NotHereError, match="has no step 2"):
        find({"job": str(JOB), "step": "2"})


@VERSIONS
def test_another_jobs_processes_are_never_a_jobs(version: int, made: contextlib.ExitStack, victims: contextlib.ExitStack) -> None:
    node, task = node_name(), (["task_0"] if version == 1 else ["user", "task_0"])
    pids = {job: sleeper(victims) for job in (JOB, JOB + 1, JOB * 10)}
    for job, pid in pids.items():
        made.enter_context(slurm_tree.step(version, job, node=node)).add(pid, *task)
    for job, pid in pids.items():
        assert members(find({"job": str(job)})) == {pid}


@VERSIONS
def test_a_job_whose_process_cannot_die_is_found_while_it_completes_and_without_slurmstepd(
    version: int, made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    step = made.enter_context(slurm_tree.step(version, JOB, node=node_name()))
    victim = victims.enter_context(lab.unkillable(worker=True))
    step.add(victim.pid, *(["task_0"] if version == 1 else ["user", "task_0"]))
    victim.kill()
    lab.until(lambda: lab.state(victim.pid) == "Z", "its first thread has exited")
    assert members(find({"job": str(JOB), "uid": "0"})) == {victim.pid}


def test_where_memory_is_not_constrained_the_freezer_knows_the_job(made: contextlib.ExitStack, victims: contextlib.ExitStack) -> None:
    step = made.enter_context(slurm_tree.step(1, JOB, node=node_name(), controllers=("freezer",)))
    pid = sleeper(victims)
    step.add(pid)
    found = find({"job": str(JOB)})
    assert [each.controller for each in found.groups] == ["freezer"]
    assert members(found) == {pid}


def test_one_job_id_on_two_nodes_of_this_machine_is_ambiguous_until_the_node_is_named(
    made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    nodes = {node_name(): sleeper(victims) for _ in range(2)}
    for node, pid in nodes.items():
        made.enter_context(slurm_tree.step(1, JOB, node=node)).add(pid)
    with pytest.raises(AmbiguousError) as told:
        find({"job": str(JOB)})
    assert set(told.value.candidates) == set(nodes)
    for node, pid in nodes.items():
        assert members(find({"job": str(JOB), "node": node})) == {pid}


def test_what_another_name_of_the_node_has_left_behind_makes_nothing_ambiguous(
    made: contextlib.ExitStack, victims: contextlib.ExitStack
) -> None:
    made.enter_context(slurm_tree.step(1, JOB, node=node_name()))
    pid = sleeper(victims)
    made.enter_context(slurm_tree.step(1, JOB, node=node_name())).add(pid)
    assert members(find({"job": str(JOB)})) == {pid}


@VERSIONS
def test_a_job_of_another_user_than_was_meant_is_not_here(version: int, made: contextlib.ExitStack, victims: contextlib.ExitStack) -> None:
    step = made.enter_context(slurm_tree.step(version, JOB, node=node_name(), uid=USER))
    victim = victims.enter_context(lab.live(uid=USER))
    step.add(victim.pid, *(["task_0"] if version == 1 else ["user", "task_0"]))
    assert members(find({"job": str(JOB), "uid": str(USER)})) == {victim.pid}
    with pytest.raises(NotHereError, match="another user's"):
        find({"job": str(JOB), "uid": str(USER + 1)}, "uid")


def test_without_cgroups_a_job_is_what_its_slurmstepd_has_started(victims: contextlib.ExitStack) -> None:
    ours = victims.enter_context(slurm_tree.daemon("slurmstepd", title=f"slurmstepd: [{JOB}.0]", children=2, uid=USER))
    victims.enter_context(slurm_tree.daemon("slurmstepd", title=f"slurmstepd: [{JOB + 1}.0]", children=1, uid=USER))
    assert {each.pid for each in find({"job": str(JOB)}).processes} == set(ours.children)
    assert {each.pid for each in find({"job": str(JOB), "step": "0"}).processes} == set(ours.children)
    for attributes in ({"step": "1"}, {"uid": str(USER + 1)}):
        with pytest.raises(NotHereError):
            find({"job": str(JOB), **attributes})


def test_a_process_that_only_calls_itself_slurmstepd_leads_to_nobody(victims: contextlib.ExitStack) -> None:
    lab.need_root("a process of another user")
    script = f"import os, sys; open('/proc/self/comm', 'w').write('slurmstepd'); os.setresuid({USER}, {USER}, {USER}); os.fork(); "
    script += "print('on', flush=True); sys.stdin.read()"
    liar = victims.enter_context(
        subprocess.Popen([f"slurmstepd: [{JOB}.0]", "-c", script], executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    )
    assert liar.stdout
    liar.stdout.readline()
    with pytest.raises(NotHereError):
        find({"job": str(JOB), "uid": str(USER)})


def test_what_has_left_its_job_is_found_by_its_user_only_where_that_is_allowed(victims: contextlib.ExitStack, tmp_path: Path) -> None:
    need_no_other_slurm()
    victims.enter_context(slurm_tree.daemon("slurmd"))  # in the test's own cgroups, as the stray is
    stray = victims.enter_context(lab.live(uid=USER))
    attributes = {"job": str(JOB), "uid": str(USER)}
    with pytest.raises(NotHereError, match="neither a cgroup nor a slurmstepd") as told:
        find(attributes)
    assert "stray_processes" in told.value.remedy
    assert {each.pid for each in find(attributes, "uid").processes} == {stray.pid}
    keeper = tmp_path / "slurmstepd"
    shutil.copy("/bin/sleep", keeper)
    with subprocess.Popen([keeper, "infinity"]) as infinity:  # as it keeps the scope of cgroup v2: no job is its
        assert {each.pid for each in find(attributes, "uid").processes} == {stray.pid}
        infinity.kill()
    for others in ({"job": str(JOB)}, {"job": str(JOB), "uid": str(USER + 1)}, {"job": str(JOB), "uid": "0"}, {**attributes, "step": "0"}):
        with pytest.raises(NotHereError):
            find(others, "uid")


def test_where_the_user_has_another_job_nobody_says_whose_the_stray_is(victims: contextlib.ExitStack) -> None:
    victims.enter_context(slurm_tree.daemon("slurmd"))
    stray = victims.enter_context(lab.live(uid=USER))
    attributes = {"job": str(JOB), "uid": str(USER)}
    with slurm_tree.daemon("slurmstepd", title=f"slurmstepd: [{JOB + 1}.0]", children=1, uid=USER):
        with pytest.raises(AmbiguousError) as told:
            find(attributes, "uid")
        assert str(JOB + 1) in told.value.candidates
        assert str(stray.pid) in told.value.problem
        with slurm_tree.daemon("slurmstepd", title=f"slurmstepd: [{JOB}.0]", children=1, uid=USER) as ours:
            assert {each.pid for each in find(attributes, "uid").processes} == set(ours.children), "a stray shields no job"
    with slurm_tree.step(1, JOB + 2, node=node_name(), uid=USER), pytest.raises(AmbiguousError) as told:
        find(attributes, "uid")
    assert str(JOB + 2) in told.value.candidates


def test_a_conformance_check_says_all_that_is_wrong(victims: contextlib.ExitStack) -> None:
    class Careless:
        def find(self, attributes: Mapping[str, str], /) -> Found:
            os.open("/dev/null", os.O_RDONLY)
            return Found(processes=[_named(int(attributes.get("pid") or 1))])

    pid = sleeper(victims)
    with pytest.raises(conformance.DoesNotConformError) as told:
        conformance.check(Careless, here={"pid": str(pid)}, pids=[pid], absent={"pid": "4194304"})
    said = str(told.value)
    assert "as if everything were meant" in said
    assert "takes an attribute that it does not know" in said
    assert "ValueError" in said
    assert "descriptors open" in said
    assert "has gone" not in said
    with pytest.raises(conformance.DoesNotConformError, match=f"names \\[{pid}\\], and not"):
        conformance.check(Careless, here={"pid": str(pid)}, pids=[pid, os.getpid()], absent={})
    with pytest.raises(conformance.DoesNotConformError, match="cannot be made"):
        conformance.check(lambda: Slurm({"no": "such"}), here={}, pids=[], absent={})


def _named(pid: int) -> FoundProcess:
    return FoundProcess(pid, lab.start_time(pid))


def test_options_that_slurm_does_not_have_are_named() -> None:
    for options in ({"stray_processes": "all"}, {"strays": "uid"}):
        with pytest.raises(UnavailableError, match=next(iter(options))):
            Slurm(options)
    with pytest.raises(InvalidAttributeError):
        Slurm({}).find({})
