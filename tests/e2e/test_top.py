"""`mrelease top` as a person uses it, by its keys, against a real agent and real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import secrets
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Button, Static

from mrelease import Cgroup, Container, MreleaseError, Process, errors
from mrelease.cli.top.app import TopApp
from mrelease.cli.top.rows import COLUMNS
from mrelease.cli.top.source import Query
from mrelease.cli.where import Where
from support import lab
from support.agent import Agent, clean_environment, running_agent
from support.lab.cgroups import cgroup_below, in_hierarchy
from support.sdk_cli import Cli, cli_in

SIZE = 64 * lab.MIB
PATIENCE = 60.0
MRELEASE = str(Path(sys.executable).with_name("mrelease"))
OFTEN = timedelta(milliseconds=200)
Top = Pilot[MreleaseError]


@contextlib.asynccontextmanager
async def top(agent: Agent, within: Container | Cgroup | None = None) -> AsyncGenerator[Top]:
    """The full-screen view, on a screen of its own."""
    app = TopApp(Where(agent.address), Query(OFTEN, within, 1000))
    async with app.run_test(size=(140, 16)) as pilot:
        yield pilot


def app_of(pilot: Top) -> TopApp:
    assert isinstance(pilot.app, TopApp)
    return pilot.app


async def until(pilot: Top, condition: Callable[[], object], awaited: str) -> None:
    """Let the application run until this is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{awaited}; the screen says: {app_of(pilot).messages}"
        await pilot.pause(0.01)


async def choose(pilot: Top, pid: int) -> None:
    """Leave one process on the screen: the cursor is on it."""
    app = app_of(pilot)
    await until(pilot, lambda: any(info.pid == pid for info in app.shown), f"{pid} is listed")
    await pilot.press("slash", *f"{pid}:", "enter")
    await until(pilot, lambda: [info.pid for info in app.shown] == [pid], f"{pid} alone is shown")


def said(pilot: Top, selector: str) -> str:
    """Text of a widget of the screen in front."""
    return str(app_of(pilot).screen.query_one(selector, Static).visual)


def asks(pilot: Top) -> bool:
    return bool(app_of(pilot).screen.query("#kill"))


def may_kill(pilot: Top) -> bool:
    return asks(pilot) and not app_of(pilot).screen.query_one("#kill", Button).disabled


@pytest.fixture
def victim() -> Generator[lab.Victim]:
    with lab.live(SIZE) as made:
        yield made


async def test_a_chosen_process_is_killed_and_its_memory_is_back(agent: Agent, victim: lab.Victim) -> None:
    lab.need_mrelease()
    async with top(agent) as pilot:
        await choose(pilot, victim.pid)
        (info,) = app_of(pilot).shown
        await pilot.press("k")
        await until(pilot, lambda: may_kill(pilot), "the agent has said what would come back")
        assert f"Kill {victim.pid} {info.command}?" in said(pilot, "#question")
        assert "MiB would come back" in said(pilot, "#check")
        assert not victim.exited(0)
        await pilot.press("y")
        await until(pilot, lambda: len(app_of(pilot).messages) == 2, "there is a verdict")
        killing, became = app_of(pilot).messages
        assert killing == f"killing {victim.pid} {info.command} ..."
        assert became.startswith(f"{victim.pid} {info.command} ")
        assert "RELEASED" in became or "EXITED" in became
        assert "back in" in became
        assert " of " in became
        assert victim.exited()
        await until(pilot, lambda: not app_of(pilot).shown, "it is listed no more")


async def test_whoever_does_not_say_yes_kills_nothing(agent: Agent, victim: lab.Victim) -> None:
    """Enter too: the harmless button has the focus."""
    async with top(agent) as pilot:
        app = app_of(pilot)
        await choose(pilot, victim.pid)
        for key in ("escape", "n", "enter"):
            await pilot.press("delete")
            await until(pilot, lambda: may_kill(pilot), "the agent has said what would come back")
            await pilot.press(key)
            await until(pilot, lambda: not asks(pilot), "the question is gone")
        seen = app.samples
        await until(pilot, lambda: app.samples > seen + 1, "time goes on")
        assert app.messages == ()
        assert [info.pid for info in app.shown] == [victim.pid]
    assert not victim.exited(0)
    of_victim = [line for line in agent.log.splitlines() if f"pid={victim.pid} " in line]
    assert len(of_victim) == 3
    assert all("validated" in line for line in of_victim)


async def test_what_is_protected_cannot_be_confirmed(agent: Agent) -> None:
    async with top(agent) as pilot:
        await choose(pilot, agent.pid)
        await pilot.press("k")
        await until(pilot, lambda: asks(pilot) and "protected" in said(pilot, "#check"), "the agent refuses")
        assert not may_kill(pilot)
        await pilot.press("y")
        await pilot.press("tab", "enter")
        await pilot.pause()
        assert agent.process.poll() is None
        assert app_of(pilot).messages == ()


async def test_pods_and_containers_are_told_and_found(agent: Agent) -> None:
    pod, container = str(uuid.uuid4()), secrets.token_hex(32)
    with (
        lab.memory_cgroup() as parent,
        cgroup_below(parent, f"kubepods/burstable/pod{pod}/{container}") as group,
        lab.shmem(SIZE, anon=SIZE, within=[group]) as inside,
        lab.live(SIZE) as outside,
    ):
        async with top(agent) as pilot:
            app = app_of(pilot)
            await until(pilot, lambda: {inside.pid, outside.pid} <= {info.pid for info in app.shown}, "both are listed")
            await pilot.press("slash", *pod[:8], "space", *"BURST", "enter")
            assert [info.pid for info in app.shown] == [inside.pid]
            await pilot.press("k")
            await until(pilot, lambda: may_kill(pilot), "the agent has said what would come back")
            question = said(pilot, "#question")
            assert f"{pod} Burstable" in question
            assert container[:12] in question
            assert "64.0 MiB SHMEM" in question
            await pilot.press("n", "escape")
            await until(pilot, lambda: len(app.shown) > 1, "all are shown again")
        async with top(agent, Container(container)) as pilot:
            app = app_of(pilot)
            await until(pilot, lambda: [info.pid for info in app.shown] == [inside.pid], "the container's process alone is listed")
            assert "cgroup" in said(pilot, "#gauges")
            assert container[:12] in said(pilot, "#gauges")


async def test_columns_sort_the_table(agent: Agent) -> None:
    with lab.memory_cgroup() as group, contextlib.ExitStack() as stack:
        sizes = (2 * SIZE // 4, SIZE, SIZE // 4)
        victims = [stack.enter_context(lab.live(size, within=[group])) for size in sizes]
        by_size = [victim.pid for victim in sorted(victims, key=lambda victim: -victim.size_bytes)]
        async with top(agent, Cgroup(in_hierarchy(group))) as pilot:
            app = app_of(pilot)
            await until(pilot, lambda: len(app.shown) == 3, "the processes are listed")
            assert [info.pid for info in app.shown] == by_size
            assert "by RECLAIMABLE" in said(pilot, "#head")
            await pilot.press("down", "down")
            assert app.chosen == app.shown[2]
            await pilot.press("r")
            assert [info.pid for info in app.shown] == by_size[::-1]
            # The cursor stays on its process, wherever that is now.
            assert app.chosen == app.shown[0]
            for _ in range(len(COLUMNS)):
                await pilot.press("s")
                if "by PID" in said(pilot, "#head"):
                    break
            pids = [info.pid for info in app.shown]
            assert pids == sorted(by_size)
            assert app.chosen is not None
            assert app.chosen.pid == by_size[2]
            await pilot.click("#processes", offset=(1, 0))
            assert [info.pid for info in app.shown] == pids[::-1]


async def test_an_agent_that_comes_back_is_found_again(run_dir: Path) -> None:
    with running_agent(run_dir) as first:
        app = TopApp(Where(first.address), Query(OFTEN, None, 100))
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.samples, "it is shown")
            await asyncio.to_thread(first.terminate)
            await until(pilot, lambda: app.messages, "it says that the agent is gone")
            assert "shutting down" in app.messages[0] or "lost" in app.messages[0]
            with contextlib.ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, running_agent(run_dir))
                seen = app.samples
                await until(pilot, lambda: app.samples > seen, "it is shown again")
                # A kill of what was shown before is meant for the same node and boot, and still for the same process.
                await pilot.press("q")
            assert app.return_value is None


async def test_a_watched_cgroup_that_is_removed_ends_it(agent: Agent) -> None:
    with lab.memory_cgroup() as parent, contextlib.ExitStack() as stack:
        container = secrets.token_hex(32)
        stack.enter_context(cgroup_below(parent, f"kubepods/besteffort/pod{uuid.uuid4()}/{container}"))
        app = TopApp(Where(agent.address), Query(OFTEN, Container(container), 100))
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.samples, "it is shown")
            await asyncio.to_thread(stack.close)
            await until(pilot, lambda: app.return_value is not None, "it ends")
    assert isinstance(app.return_value, errors.TargetNotFound)


def mrelease(agent: Agent, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """``mrelease top`` without a terminal."""
    environment = {**clean_environment(), "MRELEASE_AGENT": agent.address}
    return subprocess.Popen(
        [MRELEASE, "top", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.fixture
def cli(agent: Agent, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``mrelease`` in this process, which has no terminal."""
    monkeypatch.setenv("MRELEASE_AGENT", agent.address)
    return cli_in(capsys)


def test_without_a_terminal_it_prints_one_table(cli: Cli, victim: lab.Victim) -> None:
    for arguments in ([], ["--once", "-n", "1000"]):
        done = cli("top", *arguments)
        assert (done.code, done.err) == (0, "")
        head, _, table = done.out.partition("\n\n")
        assert [line.split()[0] for line in head.splitlines()][:4] == ["node", "memory", "swap", "pressure"]
        lines = table.splitlines()
        assert lines[0].split()[:4] == ["PID:INODE", "USER", "STATE", "RECLAIMABLE"]
        (row,) = (line.split() for line in lines if line.split()[0].partition(":")[0] == str(victim.pid))
        assert row[4] == "MiB"
        assert SIZE >> 20 <= float(row[3]) < (SIZE >> 20) + 32


def test_data_are_streamed_one_object_a_line_until_it_is_stopped(agent: Agent, victim: lab.Victim) -> None:
    with mrelease(agent, "-o", "json", "--interval", "100ms", "-n", "1000") as process:
        assert process.stdout is not None
        samples = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "")
        assert all(json.loads(line) for line in out.splitlines())
    first = samples[0]
    assert first["sample"]["memory"]["total_bytes"] == lab.meminfo("MemTotal")
    assert first["sample"]["node"]["name"]
    (info,) = (info for info in first["processes"] if info["process"]["pid"] == victim.pid)
    assert info["reclaimable_bytes"] >= SIZE
    assert samples[1]["processes"] is None, "a list is made once a second at most"
    times = [sample["sample"]["sample_time"] for sample in samples]
    assert times == sorted(set(times))


def test_once_prints_one_object(cli: Cli) -> None:
    done = cli("top", "--once", "-o", "json")
    assert done.code == 0
    assert set(done.data) == {"sample", "processes"}


def test_a_reader_that_has_had_enough_ends_it(agent: Agent) -> None:
    with mrelease(agent, "-o", "yaml", "--interval", "100ms") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "---\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--interval", "1ms"], 2, "interval"),
        (["--container", "0123456789ab"], 5, "within.container.id"),
        (["--cgroup", "/"], 4, "protected"),
        (["--cgroup", ""], 2, "within.cgroup.path"),
        (["--cgroup", "/a", "--container", "b"], 2, "one of"),
        (["-n", "0"], 2, "limit"),
        (["--agent", "unix:///none/agent.sock"], 6, "no socket"),
    ],
    ids=["interval", "no container", "root", "empty", "both", "limit", "no agent"],
)
def test_what_cannot_be_watched_is_said_as_by_every_command(cli: Cli, arguments: list[str], code: int, words: str) -> None:
    done = cli("top", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert "Traceback" not in done.err


@contextlib.contextmanager
def terminal(agent: Agent, *arguments: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """``mrelease top`` on a terminal of 100 columns; the other end of it."""
    ours, theirs = pty.openpty()
    environment = {**clean_environment(), "MRELEASE_AGENT": agent.address, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen([MRELEASE, "top", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(fd: int, text: bytes) -> bytes:
    heard = b""
    deadline = time.monotonic() + PATIENCE
    while text not in heard:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, heard
        try:
            heard += os.read(fd, 65536)
        except OSError:  # the last user has left, tty(4)
            raise AssertionError(heard) from None
    return heard


def test_on_a_terminal_it_fills_the_screen_and_gives_it_back(agent: Agent) -> None:
    with terminal(agent) as (process, fd):
        read_until(fd, b"RECLAIMABLE")
        os.write(fd, b"q")
        read_until(fd, b"\x1b[?1049l")  # the other screen is left
        assert process.wait(PATIENCE) == 0


def test_on_a_terminal_without_an_agent_it_says_so(agent: Agent, tmp_path: Path) -> None:
    with terminal(agent, "--agent", f"unix://{tmp_path}/none.sock") as (process, fd):
        assert b"mrelease: " in read_until(fd, b"there is no socket")
        assert process.wait(PATIENCE) == 6


def test_a_process_is_killed_by_its_identity_not_by_its_number(agent: Agent) -> None:
    """What a row names is the process with its inode and start time, so a recycled pid is refused; see tests/kernel/test_pid_reuse.py."""

    async def rows() -> list[Process]:
        async with top(agent) as pilot:
            await until(pilot, lambda: app_of(pilot).shown, "processes are listed")
            return [info.target for info in app_of(pilot).shown]

    for target in asyncio.run(rows()):
        assert target.start_time_ticks
        assert target.pidfd_inode or lab.kernel_release() < (6, 9)
