"""Where Slurm keeps its jobs, and whose the processes are that it keeps nowhere: from paths and facts alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from mrelease_agent.targets.plugins import InvalidAttributeError
from mrelease_agent.targets.slurm.attributes import Wanted, wanted
from mrelease_agent.targets.slurm.cgroups import IN_A_JOB, Below, JobGroup, jobs, steps
from mrelease_agent.targets.slurm.untracked import Node, Seen, Stepd

#: As slurmd makes them, here without their hierarchy.
V1 = (
    "/slurm/uid_1000/job_12/step_batch",
    "/slurm_node7/uid_1000/job_34/step_0/task_0",
    "/slurm_node7/uid_1000/job_34/step_0+1/task_0",
    "/slurm_node7/uid_1000/job_34/step_10",
    "/slurm_node7/uid_1000/job_34/step_extern",
    "/slurm_node7/uid_1001/job_34/step_0",
    "/slurm_a.b-c_d/uid_0/job_56/step_interactive",
    "/slurm_node7/system",
    "/slurmdbd/uid_1/job_1",
    "/user/slurm/uid_1/job_1",
    "/slurm/uid_x/job_1",
    "/slurm/uid_1/job_0",
    "/slurm/uid_1/job_01",
    "/slurm/uid_1/job_1x",
    "/system.slice/slurmstepd.scope/job_9/step_0",
)
V2 = (
    "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
    "/system.slice/slurmstepd.scope/job_12/step_0/slurm",
    "/system.slice/slurmstepd.scope/system",
    "/system.slice/node7_slurmstepd.scope/job_34/step_batch/user/task_special",
    "/slurm.slice/slurmstepd.scope/job_56/step_extern",
    "/user.slice/user-1000.slice/slurmstepd.scope/job_78",
    "/slurm/uid_1000/job_90",
    "/system.slice/evil_slurmstepd.scopex/job_1",
)


def tree(paths: Iterable[str], top: str = "") -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in paths:
        names = path.strip("/").split("/")
        for depth, name in enumerate(names):
            found.setdefault(top + "".join(f"/{above}" for above in names[:depth]), set()).add(name)
    return found


def below(paths: Iterable[str], top: str = "") -> Below:
    known = tree(paths, top)
    return lambda path: sorted(known.get(path.rstrip("/"), ()))


@pytest.mark.parametrize("top", ["/", "/docker/kind"])
def test_jobs_of_v1_are_found_by_their_paths_and_nothing_else_is_one(top: str) -> None:
    base = top.rstrip("/")
    found = set(jobs(below(V1, base), top, 1))
    assert found == {
        JobGroup(f"{base}/slurm/uid_1000/job_12", 12, "", 1000),
        JobGroup(f"{base}/slurm_node7/uid_1000/job_34", 34, "node7", 1000),
        JobGroup(f"{base}/slurm_node7/uid_1001/job_34", 34, "node7", 1001),
        JobGroup(f"{base}/slurm_a.b-c_d/uid_0/job_56", 56, "a.b-c_d", 0),
    }


def test_jobs_of_v2_are_found_by_their_paths_and_nothing_else_is_one() -> None:
    assert set(jobs(below(V2), "/", 2, "unified")) == {
        JobGroup("/system.slice/slurmstepd.scope/job_12", 12, "", None, "unified"),
        JobGroup("/system.slice/node7_slurmstepd.scope/job_34", 34, "node7", None, "unified"),
        JobGroup("/slurm.slice/slurmstepd.scope/job_56", 56, "", None, "unified"),
    }


def test_a_step_is_all_its_components_and_no_step_whose_number_begins_with_its() -> None:
    job = JobGroup("/slurm_node7/uid_1000/job_34", 34, "node7", 1000)
    list_ = below(V1)
    assert steps(list_, job, "0") == [f"{job.path}/step_0", f"{job.path}/step_0+1"]
    assert steps(list_, job, "0+1") == [f"{job.path}/step_0+1"]
    assert steps(list_, job, "1") == []
    assert steps(list_, job, "10") == [f"{job.path}/step_10"]
    assert steps(list_, job, "extern") == [f"{job.path}/step_extern"]


@pytest.mark.parametrize("path", [*V1[:2], V1[6], *V2[:2], V2[3]])
def test_a_process_in_a_job_is_known_by_its_cgroups(path: str) -> None:
    assert IN_A_JOB.search(f"5:freezer:{path}\n0::/\n".encode())
    assert IN_A_JOB.search(f"0::{path}\n".encode())


@pytest.mark.parametrize("path", ["/", "/slurm", "/system.slice/slurmd.service", "/slurm_n/uid_5", "/system.slice/slurmstepd.scope/system"])
def test_what_is_slurms_and_no_job_is_outside_of_every_job(path: str) -> None:
    assert not IN_A_JOB.search(f"5:freezer:{path}\n0::/\n".encode())


def test_attributes_say_what_is_meant() -> None:
    assert wanted({"job": "1234"}) == Wanted(1234)
    assert wanted({"job": "1", "step": "0+1", "node": "n-1.x_y", "uid": "0"}) == Wanted(1, "0+1", "n-1.x_y", 0)
    for step in ("0", "4294967290", "batch", "extern", "interactive"):
        assert wanted({"job": "4294967293", "step": step}).step == step


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({}, "job"),
        ({"step": "0"}, "job"),
        ({"job": "0"}, "job"),
        ({"job": "-1"}, "job"),
        ({"job": "4294967294"}, "job"),
        ({"job": "12_3"}, "job"),
        ({"job": "12.0"}, "job"),
        ({"job": "012"}, "job"),
        ({"job": "*"}, "job"),
        ({"job": "١٢"}, "job"),
        ({"job": "1/../2"}, "job"),
        ({"job": "1", "step": "*"}, "step"),
        ({"job": "1", "step": ".."}, "step"),
        ({"job": "1", "step": "Batch"}, "step"),
        ({"job": "1", "node": "../x"}, "node"),
        ({"job": "1", "node": "a/b"}, "node"),
        ({"job": "1", "uid": "root"}, "uid"),
        ({"job": "1", "uid": "4294967295"}, "uid"),
        ({"job": "1", "jobs": "2"}, "jobs"),
    ],
)
def test_an_attribute_that_is_none_is_named(attributes: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidAttributeError) as told:
        wanted(attributes)
    assert told.value.attribute == named
    assert told.value.remedy


SLURMD = frozenset({b"4:memory:/system.slice/slurmd.service\n0::/system.slice/slurmd.service\n"})
LOGIN = frozenset({b"4:memory:/user.slice/user-1000.slice/session-3.scope\n0::/\n"})
POD = b"/kubepods/burstable/pod0b2b8f0c-2b0e-4b0e-9b0e-2b0e4b0e9b0e/" + b"a" * 64
IN_A_POD = frozenset({b"4:memory:" + POD + b"\n0::/\n"})
JOB = frozenset({b"4:memory:/slurm_n/uid_1000/job_3/step_0\n0::/\n"})
ADA, GRACE = frozenset({1000}), frozenset({1001})
ROOT = frozenset({0})


def node(*processes: Seen, stepds: Iterable[Stepd] = ()) -> Node:
    slurmd = Seen(2, 1, 1, "slurmd", ROOT, SLURMD)
    made = [Seen(stepd.pid, 2, 1, "slurmstepd", ROOT, SLURMD) for stepd in stepds]
    return Node({each.pid: each for each in (slurmd, *made, *processes)}, tuple(stepds))


def seen(pid: int, parent: int = 1, uids: frozenset[int] = ADA, cgroups: frozenset[bytes] = SLURMD) -> Seen:
    return Seen(pid, parent, 100 + pid, "trainer", uids, cgroups)


def pids(found: Iterable[Seen]) -> set[int]:
    return {each.pid for each in found}


def test_processes_below_its_slurmstepd_are_a_jobs_and_below_anothers_are_not() -> None:
    ours, theirs = Stepd(10, 5, "0"), Stepd(20, 6, "0")
    found = node(seen(11, 10), seen(12, 11), seen(13, 12, GRACE), seen(21, 20), seen(30), stepds=[ours, theirs])
    assert pids(found.descendants(found.of(5))) == {11, 12, 13}
    assert pids(found.descendants(found.of(5, "0"))) == {11, 12, 13}
    assert found.of(5, "1") == []
    assert found.of(7) == []


def test_strays_are_what_slurmd_may_have_started_and_is_in_nothing_else() -> None:
    found = node(
        seen(11, 10),
        seen(30),
        seen(31, uids=GRACE),
        seen(32, uids=frozenset({1000, 0})),
        seen(33, cgroups=LOGIN),
        seen(34, cgroups=IN_A_POD),
        seen(35, cgroups=JOB),
        seen(36, cgroups=frozenset({b"4:memory:/\n0::/\n"})),
        seen(37, cgroups=frozenset({*SLURMD, *LOGIN})),
        stepds=[Stepd(10, 5, "0")],
    )
    assert pids(found.strays(1000)) == {30}


def test_another_job_of_the_user_makes_strays_ambiguous_and_one_of_another_user_does_not() -> None:
    found = node(
        seen(11, 10), seen(21, 20, GRACE), seen(30), stepds=[Stepd(10, 5, "0"), Stepd(20, 6, "0"), Stepd(40), Stepd(50, 8, "batch")]
    )
    assert found.other_jobs(5, 1000) == {"the job of slurmstepd 40", "8"}, "of which nobody knows whose they are"
    assert found.other_jobs(6, 1000) == {"5", "the job of slurmstepd 40", "8"}
    # The step that only holds the job (extern) has a process of root's; another step of the job tells.
    extern = Stepd(22, 6, "extern")
    found = node(seen(11, 10), seen(21, 20, GRACE), seen(23, 22, ROOT), stepds=[Stepd(10, 5, "0"), Stepd(20, 6, "0"), extern])
    assert found.other_jobs(5, 1000) == set()
    assert node(seen(23, 22, ROOT), stepds=[extern]).other_jobs(5, 1000) == {"6"}
    found = node(
        seen(11, 10), seen(21, 20, GRACE), seen(30), stepds=[Stepd(10, 5, "0"), Stepd(20, 6, "0"), Stepd(40), Stepd(50, 8, "batch")]
    )
    assert found.other_jobs(5, 1001) == {"6", "the job of slurmstepd 40", "8"}
