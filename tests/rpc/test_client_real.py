"""The SDK and the command line with a real agent and real processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

import mrelease
from mrelease import errors
from support import lab
from support.agent import Agent, running_agent
from support.sdk_cli import Cli, cli_in

SIZE = 32 * lab.MIB


@pytest.fixture
def cli(agent: Agent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    return cli_in(capsys)


def is_alive(victim: lab.Victim) -> bool:
    return lab.state(victim.pid) not in ("Z", "X", None)


def test_client_kills_and_tells_how_much_came_back(node: mrelease.Client) -> None:
    with lab.live(SIZE) as victim:
        result = node.kill_and_release(mrelease.Process(victim.pid), wait=mrelease.Wait.EXITED, reason="a test")
        lab.wait_readable(victim.pidfd)
    result.raise_unless_released()
    (process,) = result.processes
    assert process.released_bytes >= SIZE * 0.98
    assert process.memory_before is not None
    assert process.memory_before.reclaimable_bytes == process.released_bytes == result.released_bytes
    assert process.exit_duration is not None
    assert process.kill_time is not None
    assert f"{victim.pid}  " in str(result)


async def test_async_client_kills_several_at_once(agent: Agent) -> None:
    async with mrelease.AsyncClient(agent.address) as client:
        with lab.live(SIZE) as one, lab.live(SIZE) as two:
            results = await asyncio.gather(*(client.kill_and_release(mrelease.Process(v.pid)) for v in (one, two)))
        assert all(result.is_released for result in results)
        with pytest.raises(errors.ProcessNotFound):
            await client.release(mrelease.Process(one.pid))


def test_a_listed_process_is_killed_by_its_identity_and_another_is_not(node: mrelease.Client) -> None:
    with lab.live(SIZE) as victim:
        target = next(p.target for p in node.list_processes(limit=None) if p.pid == victim.pid)
        assert target.start_time_ticks
        wrong = mrelease.Process(target.pid, start_time_ticks=target.start_time_ticks + 1)
        with pytest.raises(errors.IdentityMismatch):
            node.kill_and_release(wrong)
        with pytest.raises(errors.NodeMismatch):
            node.kill_and_release(target, node=mrelease.NodeRef(name="another"))
        with pytest.raises(errors.NotDying):
            node.release(target)
        dry = node.kill_and_release(target, validate_only=True)
        assert dry.verdict is mrelease.Verdict.VALIDATED
        assert is_alive(victim)
        assert node.kill_and_release(target, node=node.get_node().identity).is_released


REFUSED: list[dict[str, object]] = [{"timeout": -1}, {"reap_delay": 2}, {"reason": "a\nb"}, {"wait": 97}]


@pytest.mark.parametrize("change", REFUSED, ids=str)
def test_what_the_agent_refuses_names_the_field(node: mrelease.Client, change: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidField) as caught:
        node.kill_and_release(mrelease.Process(os.getpid()), **change)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert caught.value.metadata["field"] == next(iter(change))


def test_a_client_outlives_its_agent(run_dir: Path) -> None:
    with running_agent(run_dir) as first:
        client = first.client()
        boot = client.get_node().agent_start_time
    with client:
        with pytest.raises(errors.Unreachable):
            client.kill_and_release(mrelease.Process(os.getpid()))
        (run_dir / "notify").unlink()
        with running_agent(run_dir):
            assert client.get_node().agent_start_time != boot


def test_cli_kills_what_ps_lists(agent: Agent, cli: Cli) -> None:
    with lab.live(SIZE) as victim:
        listed = next(line for line in cli("ps", "--all").lines if line.split()[0].partition(":")[0] == str(victim.pid))
        identity = listed.split()[0]
        assert cli("kill", identity, "--dry-run").code == 0
        assert cli("release", identity).code == 4
        done = cli("kill", identity, "--wait", "exited")
        assert done.code == 0
        assert done.lines[1].split()[0] == str(victim.pid)
    assert cli("kill", identity).code == 5


def test_cli_refuses_a_recycled_pid(agent: Agent, cli: Cli, node: mrelease.Client) -> None:
    if not node.get_node().can(mrelease.Feature.PIDFD_INODE):
        pytest.skip("this kernel has no unique pidfd inodes (Linux 6.9)")
    with lab.live(SIZE) as victim:
        inode = os.fstat(victim.pidfd).st_ino
        assert cli("kill", f"{victim.pid}:{inode + 1}").code == 5
        assert is_alive(victim)
        assert cli("kill", f"{victim.pid}:{inode}").code == 0


def test_cli_doctor_agrees_with_the_node(cli: Cli, node: mrelease.Client) -> None:
    found = node.get_node()
    done = cli("doctor")
    assert done.code == (0 if found.can(mrelease.Feature.PROCESS_MRELEASE) else 7)
    assert len([line for line in done.lines if not line.startswith(" ")]) == len(found.capabilities) + 1
    assert cli("node", "-o", "json").data["identity"]["boot_id"] == found.identity.boot_id


def test_local_does_the_same_without_an_agent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT", "unix:///nowhere")
    cli = cli_in(capsys)
    with lab.live(SIZE) as victim:
        done = cli("--local", "kill", str(victim.pid), "-o", "json")
        assert done.code == 0, done
        assert done.data["results"][0]["result"]["released_bytes"] >= SIZE
    assert cli("kill", str(os.getpid()), "--local").code == 4
