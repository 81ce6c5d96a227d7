"""`mrelease kill REFERENCE` and its twin in the SDK, with real agents and real victims: several nodes, one of them gone, one that waits."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import ReleaseResult, Verdict, resolvers
from mrelease.errors import IdentityMismatch, InvalidReference, NoAgent, ReferenceNotFound
from support import lab
from support.agent import Agent, running_agent
from support.sdk_cli import Cli, cli_in

MIB = lab.MIB
SIZE = 16 * MIB

PLUGIN = '''
"""jobs://NAME: what $JOBS says, a line each: name node pid start-time. $TOLD is the orchestrator: what it is told is written there."""
import os
from mrelease import Process
from mrelease.errors import OrchestratorDenied, ReferenceNotFound
from mrelease.resolvers import Placement, Reference

class Jobs:
    def resolve(self, ref, deadline):
        name = Reference.parse(ref).parts[0]
        lines = [line.split() for line in os.environ["JOBS"].splitlines() if line.startswith(name + " ")]
        if not lines:
            raise ReferenceNotFound(f"there is no job {name}", "look at the list")
        return [
            Placement.on(node, Process(int(pid), start_time_ticks=int(start)), f"{name}.{number}", deadline=deadline)
            for number, (_, node, pid, start) in enumerate(lines)
        ]
    def close(self): pass

class Told(Jobs):
    def before(self, placements):
        self.tell("before", [each.title for each in placements])
        if "DENY" in os.environ:
            raise OrchestratorDenied("you may not cancel it", "ask its owner")
    def after(self, results):
        self.tell("after", [str(getattr(each.result, "verdict", type(each.result).__name__)) for each in results])
        if "FAIL" in os.environ:
            raise OSError("password=hunter2")
    def tell(self, hook, said):
        with open(os.environ["TOLD"], "a") as file:
            file.write(f"{hook} {' '.join(said)}\\n")
'''


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Generator[Agent]:
    with running_agent(tmp_path_factory.mktemp("second") / "run", "--node-name", "node-two") as started:
        yield started


@pytest.fixture
def cli(agent: Agent, second: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A caller with two nodes and a third that nobody answers for, and the plugin."""
    for name in [*os.environ]:
        if name.startswith("MRELEASE_") or name == "KUBECONFIG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    monkeypatch.setenv("MRELEASE_AGENTS", f"n1={agent.address},n2={second.address},n3=unix://{tmp_path}/nobody")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    (tmp_path / "jobs_plugin.py").write_text(PLUGIN)
    info = tmp_path / "jobs_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jobs-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mrelease.resolvers]\njobs = jobs_plugin:Jobs\ntold = jobs_plugin:Told\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "jobs_plugin", raising=False)
    return cli_in(capsys)


def start_time(victim: lab.Victim) -> int:
    """Field 22 of proc_pid_stat(5)."""
    return int(Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[19])


def job(monkeypatch: pytest.MonkeyPatch, *tasks: tuple[str, lab.Victim]) -> None:
    monkeypatch.setenv("JOBS", "\n".join(f"train {node} {victim.pid} {start_time(victim)}" for node, victim in tasks))


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_a_process_of_a_node_by_its_reference(cli: Cli) -> None:
    with lab.live(SIZE) as victim:
        done = cli("kill", f"pid://n1/{victim.pid}?start={start_time(victim)}")
        assert victim.exited(60)
    assert (done.code, done.err) == (0, "")
    assert cells(done.lines[0]) == ["NODE", "PID", "COMMAND", "VERDICT", "RELEASED", "BACK IN", "EXITED IN"]
    assert cells(done.lines[1])[:2] == ["n1", str(victim.pid)]
    assert cells(done.lines[1])[3] in ("RELEASED", "EXITED")


def test_one_reference_many_nodes_and_what_fails_at_one_keeps_no_other(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.live(SIZE) as first, lab.live(SIZE) as two, lab.live(MIB) as spared, lab.live(MIB) as unknown:
        job(monkeypatch, ("n1", first), ("n2", two), ("n3", spared), ("n4", unknown))
        done = cli("kill", "jobs://train", "--yes", "-o", "json")
        assert first.exited(60)
        assert two.exited(60)
        assert not spared.exited(0)
    results = done.data["results"]
    assert [(each["reference"], each["node"], each["name"]) for each in results] == [
        ("jobs://train", f"n{number + 1}", f"train.{number}") for number in range(4)
    ]
    assert results[1]["result"]["node"]["name"] == "node-two", "by the agent of that node"
    assert [each["error"] for each in results[:2]] == [None, None]
    assert "there is no socket" in results[2]["error"]["message"]
    assert results[2]["error"]["nothing_signalled"]
    assert results[3]["error"]["reason"] == "NO_AGENT"
    assert done.code == 6


def test_several_that_nobody_named_are_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with lab.live(MIB) as first, lab.live(MIB) as two:
        job(monkeypatch, ("n1", first), ("n2", two))
        done = cli("kill", "jobs://train")
        assert done.code == 2
        assert "this would kill 2 targets (train.0, train.1): give --yes, or look first with --dry-run" in done.err
        dry = cli("kill", "jobs://train", "--dry-run")
        assert dry.code == 0
        assert [cells(line)[4] for line in dry.lines[1:3]] == ["VALIDATED", "VALIDATED"]
        assert not first.exited(0)
        assert not two.exited(0)


def test_references_and_pids_are_one_table(cli: Cli) -> None:
    with lab.live(SIZE) as first, lab.live(SIZE) as two:
        done = cli("kill", str(first.pid), f"pid://n2/{two.pid}", f"pid://n2/{two.pid}")
        assert first.exited(60)
        assert two.exited(60)
    assert done.code == 0
    assert cells(done.lines[0])[:3] == ["NODE", "TARGET", "PID"]
    assert [cells(line)[2] for line in done.lines[1:3]] == [str(first.pid), str(two.pid)]
    assert len([line for line in done.lines if str(two.pid) in line.split()]) == 1, "the same reference twice is one request"


def test_released_is_what_somebody_else_killed(cli: Cli) -> None:
    with lab.live(MIB) as victim:
        done = cli("release", f"pid://n1/{victim.pid}")
        assert done.code == 4
        assert "NOT_DYING" in done.out
        assert not victim.exited(0)


def test_a_user_makes_a_bare_pid_one_process(cli: Cli, tmp_path: Path) -> None:
    with lab.live(MIB) as victim:
        other = cli("kill", f"pid://n1/{victim.pid}?uid={os.geteuid() + 1}")
        assert (other.code, victim.exited(0)) == (5, False)
        assert f"is not one of user {os.geteuid() + 1}" in other.out
        assert cli("kill", f"pid://n1/{victim.pid}?uid={os.geteuid()}").code == 0
        assert victim.exited(60)


def test_another_process_of_that_number_is_spared(cli: Cli) -> None:
    with lab.live(MIB) as victim:
        done = cli("kill", f"pid://n1/{victim.pid}?start={start_time(victim) + 1}", "-o", "json")
        assert (done.code, victim.exited(0)) == (5, False)
        assert done.data["results"][0]["error"]["reason"] == "IDENTITY_MISMATCH"
        boot = cli("kill", f"pid://n1/{victim.pid}?boot=another", "-o", "json")
        assert boot.data["results"][0]["error"]["reason"] == "NODE_MISMATCH"
        assert not victim.exited(0)


def test_the_orchestrator_is_told_before_and_after_where_that_is_asked_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    with lab.live(MIB) as first, lab.live(MIB) as two:
        job(monkeypatch, ("n1", first), ("n3", two))
        cli("kill", "told://train", "--dry-run", "--cancel")
        assert not told.exists(), "a dry run tells nobody"
        done = cli("kill", "told://train", "--cancel", "--yes")
        assert first.exited(60)
    assert done.code == 6
    before, after = told.read_text().splitlines()
    assert before == "before train.0 train.1"
    assert re.fullmatch(r"after (RELEASED|EXITED) Unreachable", after)


def test_what_cannot_be_cancelled_is_not_killed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENY", "1")
    with lab.live(MIB) as victim:
        job(monkeypatch, ("n1", victim))
        denied = cli("kill", "told://train", "--cancel")
        assert (denied.code, victim.exited(0)) == (4, False)
        assert "you may not cancel it (ask its owner)" in denied.out
        none = cli("kill", "jobs://train", "--cancel")
        assert (none.code, victim.exited(0)) == (2, False)
        assert re.search(r"plugin jobs .* has nothing to cancel by", none.err)


def test_what_could_not_be_told_after_it_loses_no_result(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    with lab.live(SIZE) as victim:
        job(monkeypatch, ("n1", victim))
        done = cli("kill", "told://train", "--cancel")
        assert victim.exited(60)
    assert done.code == 1
    assert cells(done.lines[1])[0] == "n1"
    assert "what became of it could not be told: plugin told" in done.err
    assert "hunter2" not in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("jobs://none",), 5, "there is no job none (look at the list)"),
        (("nomad://x",), 2, "no plugin resolves nomad://"),
        (("pid://",), 2, "empty part"),
        (("pid://n1/7", "--local"), 2, "--local is for"),
        (("pid://n1/7", "--agent", "unix:///x"), 2, "--agent is for PIDs"),
        (("pid://n1/7", "--node", "n1"), 2, "a reference says its node"),
        (("pid://n1/7", "pid://n1/8", "--request-id", "a"), 2, "names one operation"),
        (("7", "--cancel"), 2, "there is none"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.setenv("JOBS", "")
    done = cli("kill", *arguments)
    assert done.code == code
    assert said in done.err


@pytest.mark.usefixtures("cli")
async def test_the_sdk_does_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with lab.live(SIZE) as first, lab.live(SIZE) as two, lab.live(MIB) as spared:
        job(monkeypatch, ("n1", first), ("n2", two), ("n9", spared))
        validated = await resolvers.kill_and_release_async("told://train", cancel=True, validate_only=True)
        assert [type(each.result) for each in validated] == [ReleaseResult, ReleaseResult, NoAgent]
        assert not (tmp_path / "told").exists()
        results = await resolvers.kill_and_release_async("told://train", cancel=True, reason="a test")
        assert first.exited(60)
        assert two.exited(60)
    assert [each.placement.node for each in results] == ["n1", "n2", "n9"]
    for each in results[:2]:
        assert isinstance(each.result, ReleaseResult)
        assert each.result.verdict in (Verdict.RELEASED, Verdict.EXITED)
    assert (tmp_path / "told").read_text().count("\n") == 2
    with pytest.raises(InvalidReference, match="nothing to cancel by"):
        await resolvers.kill_and_release_async("jobs://train", cancel=True)


@pytest.mark.usefixtures("cli")
def test_the_sdk_without_asyncio() -> None:
    with lab.live(MIB) as victim:
        [wrong] = resolvers.release(f"pid://n1/{victim.pid}?start=1")
        assert isinstance(wrong.result, IdentityMismatch)
        [user] = resolvers.kill_and_release(f"pid://n1/{victim.pid}?uid={os.geteuid() + 1}")
        assert isinstance(user.result, ReferenceNotFound)
        assert not victim.exited(0)
        [done] = resolvers.kill_and_release(f"pid://n2/{victim.pid}")
        assert isinstance(done.result, ReleaseResult)
        assert victim.exited(60)


def test_plugins_are_listed_with_what_works_and_why_not(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("plugins", "-o", "json")
    rows = {(row["kind"], row["name"]): row for row in done.data["plugins"]}
    assert done.code == 0
    assert rows["resolver", "pid://"]["state"] == "ok"
    assert rows["resolver", "told://"] == {
        "kind": "resolver", "name": "told://", "state": "ok", "package": "jobs-plugin 1", "code": "jobs_plugin:Told", "why": ""
    }  # fmt: skip
    assert rows["address", "environment"]["state"] == "ok"
    assert rows["address", "file"] == {
        **rows["address", "file"], "state": "off", "why": f"there is no {tmp_path}/.config/mrelease/inventory.yaml"
    }  # fmt: skip
    entries = tmp_path / "jobs_plugin-1.dist-info" / "entry_points.txt"
    entries.write_text(
        "[mrelease.resolvers]\njobs = jobs_plugin:Jobs\nlost = jobs_plugin:Lost\nlib = no_such_library:X\npid = jobs_plugin:Jobs\n"
    )
    broken = cli("plugins")
    assert broken.code == 7
    states = {cells(line)[1]: cells(line)[2] for line in broken.lines}
    assert (states["jobs://"], states["lost://"], states["lib://"], states["pid://"]) == ("ok", "broken", "missing", "broken")
    assert "needs no_such_library" in broken.out
    assert "several packages have a plugin of this name" in broken.out
    assert (cli("plugins", "jobs").code, cli("plugins", "lib").code, cli("plugins", "nomad").code) == (0, 7, 5)
    monkeypatch.setenv("MRELEASE_AGENTS", "nonsense")
    assert cli("plugins", "environment").code == 7


def test_plugins_of_an_agent_that_does_not_answer(cli: Cli, tmp_path: Path) -> None:
    done = cli("plugins", "--agent", f"unix://{tmp_path}/none")
    assert done.code == 6
    assert "the agent's own plugins are not known" in done.err
    assert "pid://" in done.out
