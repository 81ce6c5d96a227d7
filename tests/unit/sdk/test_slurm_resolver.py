"""slurm:// where there is no Slurm: what references say, and what its commands print on clusters that this machine cannot be.

The commands are scripts here, which print what those of Slurm 22.05 print; tests/plugins/slurm has the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mrelease import Custom, resolvers
from mrelease.errors import InvalidReference, NoAgent, NotPlaced, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers.slurm import JobName

Command = Callable[[str, str], None]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Puts a command of Slurm into PATH; each notes its arguments. What is not put there is not there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("mrelease.resolvers.slurm._commands._PLACES", ())
    monkeypatch.setenv("MRELEASE_AGENTS", ",".join(f"n{number}=127.0.0.1:{7000 + number}" for number in range(1, 9)))
    monkeypatch.setenv("MRELEASE_ADDRESSES", "environment")

    def make(name: str, script: str) -> None:
        (tmp_path / name).write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\nprintf "%s\\n" "{name} $*" >> {tmp_path}/asked\n{script}\n')
        (tmp_path / name).chmod(0o755)

    return make


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def job(number: int | str, **attributes: str) -> Custom:
    return Custom("slurm", {"job": str(number), **attributes})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1234", JobName(1234)),
        ("1234.0", JobName(1234, step="0")),
        ("1234.batch", JobName(1234, step="batch")),
        ("1234_5", JobName(1234, task=5)),
        ("1234_0.extern", JobName(1234, task=0, step="extern")),
        ("1234+0.interactive", JobName(1234, component=0, step="interactive")),
        ("1234?nodes=n[1-3,7],gpu-1", JobName(1234, nodes="n[1-3,7],gpu-1")),
    ],
)
def test_names_of_slurm_are_read(text: str, name: JobName) -> None:
    assert JobName.of(f"slurm://{text}") == name
    assert str(name) == text.partition("?")[0]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0",
            "-1",
            "job",
            "1234;id",
            "1234 5",
            "$(id)",
            "1234.",
            "1234.x",
            "1234_",
            "1234_5+1",
            "1234.0.1",
            "99999999999",
            "1234/0",
            "١٢",
        ),
        *("1234?nodes=", "1234?nodes=--all", "1234?nodes=n1;id", "1234?nodes=$(id)", "1234?node=n1", "1234?nodes=a&nodes=b"),
    ],
)
def test_what_is_no_name_of_slurm_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        JobName.of(f"slurm://{text}")


def test_a_job_is_on_each_of_its_nodes_with_its_user(command: Command) -> None:
    command("squeue", 'echo "1234|1234|1234|1000|RUNNING|n1|n[1-2,7]"')
    command("scontrol", 'printf "n1\\nn2\\nn7\\n"')
    with resolvers.resolve("slurm://1234") as placements:
        assert [placement.node for placement in placements] == ["n1", "n2", "n7"]
        assert [placement.target for placement in placements] == [job(1234, node=node, uid="1000") for node in ("n1", "n2", "n7")]
        assert placements[2].reach().address == "127.0.0.1:7007"


def test_steps_are_where_slurm_says_and_the_batch_script_on_the_first_node(command: Command, tmp_path: Path) -> None:
    running = 'echo "1236|1234_5|1234|1000|RUNNING|n1|n1,n2,n3"'
    command("squeue", f'case "$*" in *--steps=1236.0*) echo "1234_5.0|n2,n3" ;; *--steps=*) ;; *) {running} ;; esac')
    for ref, nodes in (("1234_5.0", ["n2", "n3"]), ("1234_5.batch", ["n1"]), ("1234_5.1", ["n1", "n2", "n3"])):
        with resolvers.resolve(f"slurm://{ref}") as placements:
            assert [placement.node for placement in placements] == nodes
            assert {placement.target.attributes["step"] for placement in placements if isinstance(placement.target, Custom)} == {
                ref.partition(".")[2]
            }
    assert any("--steps=1236.0" in line for line in asked(tmp_path))


def test_an_array_is_all_of_its_tasks_and_a_task_is_one(command: Command) -> None:
    rows = ("1235|1234_1|1234|7|RUNNING|n1|n1", "1236|1234_2|1234|7|COMPLETING|n2|n2", "1234|1234_3|1234|7|PENDING|n/a|")
    command("squeue", "\n".join(f'echo "{row}"' for row in rows))
    with resolvers.resolve("slurm://1234") as placements:
        assert [placement.target for placement in placements] == [job(1235, node="n1", uid="7"), job(1236, node="n2", uid="7")]
    with resolvers.resolve("slurm://1234_2") as placements:
        assert [placement.target for placement in placements] == [job(1236, node="n2", uid="7")]
    with resolvers.resolve("slurm://1234_2?nodes=n4") as placements:
        assert [placement.target for placement in placements] == [job(1236)]
    with pytest.raises(NotPlaced, match="PENDING"), resolvers.resolve("slurm://1234_3"):
        pass
    with pytest.raises(ReferenceNotFound), resolvers.resolve("slurm://1234_4"):
        pass


def test_components_have_names_of_their_own(command: Command) -> None:
    command("squeue", 'echo "1234|1234+0|1234|7|RUNNING|n1|n1"; echo "1235|1234+1|1235|7|RUNNING|n2|n2"')
    with resolvers.resolve("slurm://1234") as placements:
        assert [placement.node for placement in placements] == ["n1", "n2"]
    with resolvers.resolve("slurm://1234+1") as placements:
        assert [placement.target for placement in placements] == [job(1235, node="n2", uid="7")]


def test_what_the_queue_has_forgotten_is_in_the_accounting_if_there_is_one(command: Command) -> None:
    command("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    with pytest.raises(ReferenceNotFound, match="nodes="), resolvers.resolve("slurm://1234"):
        pass
    command("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    with pytest.raises(ReferenceNotFound, match="nodes="), resolvers.resolve("slurm://1234"):
        pass
    command("sacct", 'echo "1234|1234|7|CANCELLED by 7|n3"')
    with resolvers.resolve("slurm://1234") as placements:
        assert [placement.target for placement in placements] == [job(1234, node="n3", uid="7")]


def test_nodes_that_are_named_need_nothing_of_slurm(command: Command, tmp_path: Path) -> None:
    del command
    with resolvers.resolve("slurm://1234.0?nodes=n1,n2,n1") as placements:
        assert [(placement.node, placement.target) for placement in placements] == [(node, job(1234, step="0")) for node in ("n1", "n2")]
    assert not (tmp_path / "asked").exists()


def test_a_node_without_an_agent_does_not_hide_the_others(command: Command) -> None:
    command("squeue", 'echo "1234|1234|1234|7|RUNNING|n1|n1,far"')
    with resolvers.resolve("slurm://1234") as placements:
        assert placements[0].reach().address == "127.0.0.1:7001"
        assert isinstance(placements[1].problem, NoAgent)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ('echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1', OrchestratorUnavailable),
        ('echo "error: Access/permission denied" >&2; exit 1', OrchestratorDenied),
        ("exec sleep 600", OrchestratorUnavailable),
        ("exec false", OrchestratorUnavailable),
        ('echo "x|y|z|a|b|c|d"', OrchestratorUnavailable),
        ("echo CLUSTER: other", ReferenceNotFound),
    ],
)
def test_a_slurm_that_does_not_answer_properly_is_an_error(command: Command, script: str, error: type[Exception]) -> None:
    command("squeue", script)
    with pytest.raises(error), resolvers.resolve("slurm://1234", deadline=0.5 if "sleep" in script else 30.0):
        pass


def test_slurm_that_is_not_installed_says_so(command: Command) -> None:
    del command
    with pytest.raises(OrchestratorUnavailable, match="not installed"), resolvers.resolve("slurm://1234"):
        pass


def test_variables_of_the_caller_do_not_change_what_is_asked(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SCANCEL_INTERACTIVE", "SACCT_FORMAT"):
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")
    command("squeue", f'env > {tmp_path}/environment; echo "1234|1234|1234|7|RUNNING|n1|n1"')
    with resolvers.resolve("slurm://1234"):
        pass
    given = (tmp_path / "environment").read_text()
    assert "other\n" not in given
    assert "SLURM_CONF=/etc/other/slurm.conf" in given


@pytest.mark.parametrize(
    ("ref", "cancelled"), [("1234_5.0", "1234_5.0"), ("1234_5.batch", "1234_5"), ("1234_5", "1234_5"), ("1234_5?nodes=n3", "1234_5")]
)
def test_to_cancel_is_scancel_once_by_the_name_that_was_given(command: Command, tmp_path: Path, ref: str, cancelled: str) -> None:
    command("squeue", 'case "$*" in *--steps=*) ;; *) echo "1236|1234_5|1234|1000|RUNNING|n1|n1,n2" ;; esac')
    command("scancel", "")
    with resolvers.opened("slurm") as slurm:
        slurm.before(slurm.resolve(f"slurm://{ref}"))
    assert [line for line in asked(tmp_path) if line.startswith("scancel")] == [f"scancel {cancelled}"]


def test_to_cancel_what_is_over_is_no_error_and_to_be_refused_is(command: Command) -> None:
    command("squeue", 'echo "1234|1234|1234|1000|COMPLETED|n1|n1"')
    command("scancel", 'echo "scancel: error: Kill job error on job id 1234: Invalid job id specified" >&2; exit 1')
    with resolvers.opened("slurm") as slurm:
        placements = slurm.resolve("slurm://1234")
        slurm.before(placements)
        command("scancel", 'echo "scancel: error: Kill job error on job id 1234: Access/permission denied" >&2; exit 1')
        with pytest.raises(OrchestratorDenied):
            slurm.before(placements)
