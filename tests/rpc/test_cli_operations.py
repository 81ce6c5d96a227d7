"""The command line with a real agent and real victims: grace, bars, interruptions, watching, and reclaiming no more than is needed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease import Client, Feature
from support import lab, seam_agent
from support.agent import Agent, running_agent
from support.sdk_cli import Cli, cli_in
from support.signals import handler
from support.terminal import MRELEASE, on_terminal

MIB = lab.MIB
SIZE = 16 * MIB
#: Longer than any test may take.
LONG = "110s"


@pytest.fixture
def cli(agent: Agent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    return cli_in(capsys)


@pytest.fixture
def gate(tmp_path: Path) -> Generator[Path, None, None]:
    with seam_agent.gate(tmp_path / "gate") as path:
        yield path


@pytest.fixture
def gated(run_dir: Path, gate: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Agent, None, None]:
    """An agent whose releases wait until the gate is opened."""
    with running_agent(run_dir, prefix=seam_agent.seam("gate", str(gate))) as agent:
        monkeypatch.setenv("MRELEASE_AGENT", agent.address)
        yield agent


@contextlib.contextmanager
def victims(*sizes: int) -> Generator[list[lab.Victim], None, None]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(lab.live(size)) for size in sizes]


def alive(found: list[lab.Victim]) -> list[bool]:
    return [not victim.exited(0) for victim in found]


def rows(lines: list[str]) -> list[list[str]]:
    """First and third cell of each row of a table."""
    return [[cells[0], cells[2]] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines) if len(cells) > 4][1:]


def test_who_ends_in_his_grace_is_not_killed(cli: Cli) -> None:
    with handler("SIGINT", size=SIZE) as asked:
        done = cli("kill", str(asked.pid), "--grace", LONG, "--signal", "int")
        assert asked.said() == ["SIGINT"]
        assert asked.process.wait() == 0
    assert done.code == 0
    assert rows(done.lines) == [[str(asked.pid), "EXITED"]]


def test_who_does_not_is_killed_after_it(cli: Cli) -> None:
    with handler(what="ignore", size=SIZE) as asked:
        done = cli("kill", str(asked.pid), "--grace", "50ms", "-o", "json")
        assert asked.said() == ["SIGTERM"]
        assert asked.process.wait() == -9
    assert done.code == 0
    assert done.data["results"][0]["result"]["released_bytes"] >= SIZE


@pytest.mark.parametrize("name", ["KILL", "stop", "SIGNOSUCH"])
def test_what_is_no_request_to_end_is_refused_by_its_name(cli: Cli, name: str) -> None:
    with victims(MIB) as found:
        done = cli("kill", str(found[0].pid), "--grace", "1s", "--signal", name)
        assert done.code == 2
        assert "signal" in done.lines[-1]
        assert alive(found) == [True]


def test_a_dry_run_kills_nobody_and_says_what_would_come_back(cli: Cli) -> None:
    with victims(64 * MIB, 32 * MIB) as found:
        done = cli("kill", *(str(victim.pid) for victim in found), "--dry-run")
        assert done.code == 0
        assert done.lines[0].split() == ["PID", "COMMAND", "VERDICT", "RECLAIMABLE", "SHMEM"]
        assert rows(done.lines) == [[str(victim.pid), "VALIDATED"] for victim in found]
        total = re.fullmatch(r"total: up to (\d+) MiB would come back from 2 processes", done.lines[-1])
        assert total is not None
        assert 96 <= int(total[1]) <= 128
        assert alive(found) == [True, True]


def test_a_request_id_repeats_the_result(cli: Cli) -> None:
    request_id = str(uuid.uuid4())
    with victims(SIZE) as found:
        first, second = (cli("kill", str(found[0].pid), "--request-id", request_id, "-o", "json") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert [done.data["results"][0]["result"]["replayed"] for done in (first, second)] == [False, True]
    assert cli("kill", str(os.getpid()), "--request-id", request_id).code == 2


def test_a_bar_shows_what_is_held_until_the_verdict(agent: Agent) -> None:
    with (
        lab.mmap_locked(64 * MIB) as victim,
        on_terminal("kill", str(victim.pid), "--timeout", "1s", MRELEASE_AGENT=agent.address) as running,
    ):
        running.await_text("MiB held")
        code, out = running.finish()
        assert f"{victim.pid} " in running.drawn
    assert code == 3
    assert rows(out.splitlines()) == [[str(victim.pid), "HELD"]]
    assert "\x1b" not in out


def test_an_interruption_leaves_an_operation_that_can_be_watched_to_its_end(gated: Agent, gate: Path) -> None:
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim):
        with on_terminal("kill", str(victim.pid), "--timeout", LONG) as running:
            running.await_text("MiB held")
            running.interrupt()
            assert running.finish() == (130, "")
        command = re.search(r"mrelease watch ([0-9a-f-]{36})", running.drawn)
        assert command is not None
        with on_terminal("watch", command[1]) as watching:
            watching.await_text("MiB held")
            with seam_agent.opened(gate):
                code, out = watching.finish()
    assert code == 0
    assert rows(out.splitlines()) == [[str(victim.pid), "RELEASED"]]


def test_watch_attaches_to_one_that_runs_and_to_one_that_has_ended(gated: Agent, gate: Path) -> None:
    request_id = str(uuid.uuid4())
    with lab.live(SIZE) as victim, lab.hold_at_exit(victim) as hold:
        kill = [MRELEASE, "kill", str(victim.pid), "--timeout", LONG, "--request-id", request_id]
        with subprocess.Popen(kill, stdout=subprocess.PIPE, text=True) as killing:
            hold.wait_held()
            watch = [MRELEASE, "watch", request_id, "-o", "json"]
            with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
                assert watching.stdout is not None
                assert json.loads(watching.stdout.readline())["progress"]["held_bytes"] >= SIZE
                with seam_agent.opened(gate):
                    ended = [json.loads(line) for line in watching.stdout][-1]
                assert watching.wait() == 0
            out, _ = killing.communicate()
        assert (killing.returncode, rows(out.splitlines())) == (0, [[str(victim.pid), "RELEASED"]])
        assert ended["result"]["verdict"] == "VERDICT_RELEASED"
        after = subprocess.run(watch, stdout=subprocess.PIPE, text=True, check=False)
    assert after.returncode == 0
    (only,) = after.stdout.splitlines()
    assert json.loads(only) == ended


def test_watch_of_what_is_not_there_is_5(cli: Cli) -> None:
    done = cli("watch", "no-such-operation")
    assert (done.code, done.out) == (5, "")
    assert "no operation with request_id no-such-operation" in done.err
    assert cli("watch", "no id").code == 2


def test_reclaim_stops_as_soon_as_the_goal_is_met(cli: Cli) -> None:
    with victims(64 * MIB, 16 * MIB) as found:
        done = cli("reclaim", "48MiB", *(str(victim.pid) for victim in found))
        assert done.code == 0
        assert len(rows(done.lines)) == 1
        assert re.fullmatch(r"goal met: [67]\d\.\d MiB back from 1 of 2 candidates", done.lines[-1])
        assert found[0].exited()
        assert alive(found) == [False, True]


def test_reclaim_kills_in_the_order_of_the_command_line_and_passes_over_who_is_not_there(cli: Cli, tmp_path: Path) -> None:
    listed = tmp_path / "listed"
    with victims(SIZE, SIZE, SIZE) as found, lab.reaped() as gone:
        first, second, third = (str(victim.pid) for victim in found)
        listed.write_text(f"# by the scheduler\ncgroup:/no/such\npid:{first}\n")
        options = ["--pid", third, "--from", str(listed), "--pid", str(gone.pid), "--pid", second, "--pid", "1"]
        done = cli("reclaim", "1GiB", *options, "-o", "json")
        assert all(victim.exited() for victim in found)
    names = [next(iter(entry["target"].values())) for entry in done.data["candidates"]]
    assert [name.get("path") or name["pid"] for name in names] == [int(third), "/no/such", int(first), gone.pid, int(second), 1]
    over = [entry["passed_over"] and entry["passed_over"]["reason"] for entry in done.data["candidates"]]
    assert over == [None, "ERROR_REASON_TARGET_NOT_FOUND", None, "ERROR_REASON_PROCESS_NOT_FOUND", None, "ERROR_REASON_PROTECTED"]
    # Proven back, and not enough.
    assert done.code == 8
    assert done.data["summary"]["released_bytes"] >= 3 * SIZE


def test_reclaim_says_that_memory_is_held(cli: Cli) -> None:
    with lab.mmap_locked(64 * MIB) as held, victims(SIZE) as found:
        done = cli("reclaim", "1GiB", str(held.pid), str(found[0].pid), "--timeout", "500ms")
        assert found[0].exited()
    assert done.code == 3
    assert rows(done.lines)[0] == [str(held.pid), "HELD"]
    assert any(line.startswith(f"{held.pid}: ") for line in done.lines)
    assert done.lines[-1].startswith("goal not met: ")


def test_a_dry_run_of_reclaim_kills_nobody(cli: Cli) -> None:
    with victims(64 * MIB, 64 * MIB, 64 * MIB) as found:
        done = cli("reclaim", "100MiB", *(str(victim.pid) for victim in found), "--dry-run")
        assert done.code == 0
        assert rows(done.lines) == [[str(victim.pid), "VALIDATED"] for victim in found[:2]]
        assert done.lines[-1].startswith("goal would be met: ")
        assert cli("reclaim", "1GiB", str(found[0].pid), "--dry-run").code == 8
        assert alive(found) == [True] * 3


@pytest.mark.parametrize("by", ["memory", "oom-score"])
def test_reclaim_chooses_by_what_the_kernel_says_and_spares_the_caller(cli: Cli, by: str) -> None:
    # Never without --dry-run: it is about every process of this machine.
    with victims(256 * MIB, 96 * MIB) as found:
        Path(f"/proc/{found[1].pid}/oom_score_adj").write_text("1000")
        done = cli("reclaim", "1000GiB", "--by", by, "--dry-run", "-o", "json")
        assert alive(found) == [True, True]
    order = [entry["target"]["process"]["pid"] for entry in done.data["candidates"]]
    assert done.code == 8
    bigger, scored = (order.index(victim.pid) for victim in found)
    assert (scored < bigger) is (by == "oom-score")
    assert all(entry["target"]["process"]["start_time_ticks"] for entry in done.data["candidates"])
    assert not {os.getpid(), os.getppid(), 1} & set(order)


def test_reclaim_until_the_pressure_is_low(cli: Cli, node: Client) -> None:
    with victims(MIB) as found:
        done = cli("reclaim", "--pressure", "100", "--window", "100ms", str(found[0].pid))
        assert alive(found) == [True]
    if node.get_node().can(Feature.MEMORY_PRESSURE):
        assert (done.code, done.lines) == (0, ["goal met already: nobody was killed"])
    else:
        assert done.code == 4


def test_reclaim_refuses_another_node(cli: Cli) -> None:
    with victims(MIB) as found:
        assert cli("reclaim", "1GiB", str(found[0].pid), "--node", "elsewhere").code == 5
        assert alive(found) == [True]
