"""What `mrelease top` shows, and how it takes what no real agent says on demand: an older one, a slow one, one that is hostile."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import Button, Static

import mrelease
from mrelease import MreleaseError, _status
from mrelease.cli.top import gauges, rows
from mrelease.cli.top.app import TopApp
from mrelease.cli.top.source import Query
from mrelease.cli.where import Where
from mrelease.v1 import node_service_pb2, outcome_pb2, release_service_pb2, result_pb2
from support.sdk_cli import Cli, cli_in
from support.sdk_fake_agent import Fail, FakeAgent, Stream, fake_agent
from support.sdk_samples import process_info

GIB = 1 << 30
EVIL = "\x1b[2J[red]x\u202e"
PATIENCE = 60.0
Sample = node_service_pb2.WatchMemoryResponse


def sample(available: int = 6 * GIB, *, stalled_ms: int | None = 0, second: int = 0) -> Sample:
    message = Sample(node=result_pb2.NodeIdentity(name=EVIL, boot_id="b"))
    message.sample_time.seconds = 1_700_000_000 + second
    message.memory.total_bytes, message.memory.available_bytes = 8 * GIB, available
    if stalled_ms is not None:
        message.pressure.some.avg10_percent = 1.5
        message.pressure.some.total_duration.FromMilliseconds(stalled_ms)
        message.pressure.full.avg10_percent = 0.5
    return message


def listed(*pids: int) -> node_service_pb2.ListProcessesResponse:
    response = node_service_pb2.ListProcessesResponse()
    for pid in pids:
        info = response.processes.add(command=EVIL, uid=4_000_000_000, state="S", reclaimable_bytes=pid * 1024)
        info.process.pid, info.process.pidfd_inode, info.process.start_time_ticks = pid, 7, 9
    return response


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeAgent]:
    with fake_agent(tmp_path) as fake:
        monkeypatch.setenv("MRELEASE_AGENT", fake.address)
        fake.script_stream("WatchMemory", Stream([sample()], ends=False))
        fake.script("ListProcesses", listed(1001, 1002))
        try:
            yield fake
        finally:
            fake.left.set()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


def view(fake: FakeAgent) -> TopApp:
    return TopApp(Where(fake.address), Query(timedelta(seconds=0.1), None, 100))


async def until(pilot: Pilot[MreleaseError], condition: Callable[[], object], awaited: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, awaited
        await pilot.pause(0.01)


async def ask(app: TopApp, pilot: Pilot[MreleaseError]) -> None:
    await until(pilot, lambda: app.chosen, "there is a process")
    await pilot.press("k")
    await until(pilot, lambda: app.screen.query("#check"), "it asks")


def may_kill(app: TopApp) -> bool:
    return not app.screen.query_one("#kill", Button).disabled


def killed(request: Any) -> Message:
    response = release_service_pb2.KillAndReleaseResponse()
    response.result.verdict = outcome_pb2.VERDICT_VALIDATED if request.validate_only else outcome_pb2.VERDICT_HELD
    process = response.result.processes.add(command="trainer", cause="It waits in the kernel.", remedy="Restart the FUSE server.")
    process.process.CopyFrom(request.target.process)
    process.outcome = outcome_pb2.OUTCOME_VALIDATED if request.validate_only else outcome_pb2.OUTCOME_HELD
    process.memory_before.anon_bytes = GIB
    return response


async def test_yes_counts_only_when_the_agent_has_answered_and_kills_what_was_shown(fake: FakeAgent) -> None:
    answered = threading.Event()

    def slow(request: Any) -> Message:
        assert answered.wait(PATIENCE)
        return killed(request)

    fake.script("KillAndRelease", slow)
    app = view(fake)
    async with app.run_test() as pilot:
        await ask(app, pilot)
        await pilot.press("y")
        assert not may_kill(app)
        answered.set()
        await until(pilot, lambda: may_kill(app), "the agent has answered")
        assert "1.00 GiB would come back" in str(app.screen.query_one("#check", Static).visual)
        await pilot.press("y")
        await until(pilot, lambda: len(app.messages) > 1, "there is a verdict")
        assert app.messages[1:] == (
            "1002 trainer HELD 0.00 of 1.00 GiB",
            "1002: It waits in the kernel.",
            "  Restart the FUSE server.",
        )
    check, kill = (seen.request for seen in fake.seen if seen.method == "KillAndRelease")
    assert check.validate_only
    assert not kill.validate_only
    for request in (check, kill):
        identity = request.target.process
        assert (identity.pid, identity.pidfd_inode, identity.start_time_ticks) == (1002, 7, 9)
        assert (request.node.name, request.node.boot_id) == (EVIL, "b")
    assert kill.reason == "mrelease top"


async def test_a_kill_that_is_refused_says_why(fake: FakeAgent) -> None:
    details = _status.ErrorDetails("IDENTITY_MISMATCH", {"pid": "1002", "remedy": "list again"})
    refused = Fail(grpc.StatusCode.FAILED_PRECONDITION, f"another process has pid 1002 now {EVIL}", details)
    fake.script("KillAndRelease", lambda request: killed(request) if request.validate_only else refused)
    app = view(fake)
    async with app.run_test() as pilot:
        await ask(app, pilot)
        await until(pilot, lambda: may_kill(app), "the agent has answered")
        await pilot.press("y")
        await until(pilot, lambda: len(app.messages) > 1, "there is an answer")
        assert "another process has pid 1002 now" in app.messages[-1]
        assert "list again" in app.messages[-1]


async def test_no_name_reaches_the_terminal_as_it_is(fake: FakeAgent) -> None:
    fake.script("KillAndRelease", Fail(grpc.StatusCode.NOT_FOUND, EVIL))
    app = view(fake)
    async with app.run_test(size=(160, 24)) as pilot:
        await ask(app, pilot)
        await until(pilot, lambda: "asking" not in str(app.screen.query_one("#check", Static).visual), "the agent has answered")
        await pilot.pause()
        texts = [str(widget.visual) for screen in app.screen_stack for widget in screen.query(Static)]
        picture = app.export_screenshot()
    for text in (*texts, picture):
        assert "\x1b" not in text
        assert "\u202e" not in text
    # And no markup of it is obeyed.
    assert any(r"\x1b[2J[red]x\u202e" in text for text in texts)


async def test_an_older_agent_shows_memory_without_pressure(fake: FakeAgent) -> None:
    fake.streams.clear()
    node = node_service_pb2.GetNodeResponse()
    node.node.identity.name = "old"
    node.node.memory.total_bytes, node.node.memory.available_bytes = 8 * GIB, 2 * GIB
    fake.script("GetNode", node)
    app = view(fake)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.samples > 1, "it goes on")
        assert "not measured" in str(app.screen.query_one("#gauges", Static).visual)
        assert [info.pid for info in app.shown] == [1002, 1001]
        await pilot.press("q")
    assert app.return_value is None


def test_an_older_agent_prints_its_table_too(fake: FakeAgent, cli: Cli) -> None:
    fake.streams.clear()
    node = node_service_pb2.GetNodeResponse()
    node.node.memory.total_bytes = 8 * GIB
    fake.script("GetNode", node)
    done = cli("top", "--once")
    assert done.code == 0
    assert "pressure  not measured (why: mrelease doctor)" in done.lines


async def test_no_agent_at_first_ends_it(tmp_path: Path) -> None:
    app = TopApp(Where(f"unix://{tmp_path}/none.sock"), Query(timedelta(seconds=1), None, 100))
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.return_value, "it ends")
    assert isinstance(app.return_value, mrelease.errors.Unreachable)


@pytest.mark.parametrize(("reason", "code", "again"), [("SHUTTING_DOWN", "UNAVAILABLE", True), ("INTERNAL", "INTERNAL", False)])
async def test_what_passes_is_waited_for(fake: FakeAgent, reason: str, code: str, again: bool) -> None:
    fail = Fail(grpc.StatusCode[code], "scripted", _status.ErrorDetails(reason, {"remedy": "wait"}))
    fake.script_stream("WatchMemory", Stream([sample(), fail]), Stream([sample()], ends=False))
    app = view(fake)
    async with app.run_test() as pilot:
        if again:
            await until(pilot, lambda: app.samples == 2, "the agent is asked again")
            assert any("scripted" in message for message in app.messages)
        else:
            await until(pilot, lambda: app.return_value, "it ends")


def test_the_table_is_plain_and_complete(fake: FakeAgent, cli: Cli) -> None:
    done = cli("top")
    assert done.code == 0
    assert "memory    2.00 of 8.00 GiB used, 6.00 GiB available" in done.lines
    assert "pressure  some 1.50 %, full 0.50 % of 10 s" in done.lines
    assert done.lines[-2].startswith("1002:7")
    assert "\x1b" not in done.out
    assert fake.seen[0].request.interval.seconds == 1


def test_the_full_screen_needs_textual_and_says_so() -> None:
    script = (
        "import sys, pty, os\n"
        "sys.modules['textual'] = None\n"
        "from mrelease.cli.main import run\n"
        "for stream in (sys.stdin, sys.stdout, sys.stderr): stream.isatty = lambda: True\n"
        "sys.exit(run(['top']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "pip install 'mrelease[cli]'" in done.stderr
    assert "--once" in done.stderr


def test_other_commands_do_not_pay_for_it() -> None:
    script = "import sys, mrelease.cli.main; print([name for name in sys.modules if name.partition('.')[0] == 'textual'])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def model(available: int, stalled: float, second: int, **changes: Any) -> mrelease.MemorySample:
    stall = mrelease.PressureStall(0, 0, 0, timedelta(seconds=stalled))
    fields: dict[str, Any] = {
        "sample_time": datetime.fromtimestamp(1_700_000_000 + second, timezone.utc),
        "memory": mrelease.NodeMemory(8 * GIB, 0, available, 0, 0),
        "pressure": mrelease.MemoryPressure(stall, stall),
        "cgroup": None,
        "triggered": False,
        "node": None,
    }
    return mrelease.MemorySample(**(fields | changes))


def test_the_history_is_the_share_of_time_that_was_lost() -> None:
    history = gauges.History()
    for second, stalled in enumerate((0.0, 0.0, 0.5, 1.5, 0.0, 0.1)):  # the last but one: another boot
        history.add(model(GIB, stalled, second))
    assert history.sparks().plain == "▁▅█▁"
    history.add(model(GIB, 0, 9, pressure=None))
    assert len(history.sparks()) == 4


def lines(text: Text) -> list[str]:
    return [line.rstrip() for line in text.plain.splitlines()]


def test_bars_are_as_long_as_what_is_used() -> None:
    cgroup = mrelease.WatchedCgroup("/a", 3 * GIB, 4 * GIB, None)
    swap = mrelease.NodeMemory(8 * GIB, 0, 4 * GIB, 2 * GIB, 2 * GIB)
    found = lines(gauges.bars(model(0, 0, 0, memory=swap, cgroup=cgroup), gauges.History()))
    assert found[0] == f"memory   {'█' * 16}{'░' * 16}  4.00 of 8.00 GiB used, 4.00 GiB available"
    assert found[1] == f"swap     {'░' * 32}  0.00 of 2.00 GiB used"
    assert found[3] == f"cgroup   {'█' * 24}{'░' * 8}  /a: 3.00 of 4.00 GiB"
    # A limit that was lowered below what is used, and none.
    for limit, bar in ((GIB, "█" * 32), (None, "░" * 32)):
        shown = gauges.bars(model(0, 0, 0, cgroup=mrelease.WatchedCgroup("/a", 3 * GIB, limit, None)), gauges.History())
        assert lines(shown)[3].startswith(f"cgroup   {bar}  /a: 3.00")


def test_rows_say_what_stays_and_with_whom_memory_is_shared() -> None:
    cause = mrelease.UnreleasedCause
    info = process_info(
        unreleased=(mrelease.Unreleased(cause.SHMEM, GIB), mrelease.Unreleased(cause.SHARED_MM, GIB)),
        sharing_pids=(1, 2, 3, 4, 5),
        protection="init",
        qos=mrelease.QosClass.BEST_EFFORT,
    )
    assert rows.notes(info) == "protected: init; shares memory with 1, 2, 3 and 2 more"
    assert rows.stays(info) == ["1.00 GiB SHMEM"]
    cells = dict(zip((column.title for column in rows.COLUMNS), rows.cells(info), strict=True))
    assert (cells["STAYS"], cells["QOS"], cells["POD"], cells["CONTAINER"]) == ("2.00 GiB", "BestEffort", "-", "-")


def test_a_filter_wants_every_word_and_any_order_puts_the_largest_first_among_equals() -> None:
    infos = [
        process_info(process=mrelease.Process(1), command="Trainer", pod_uid="abc", reclaimable_bytes=1),
        process_info(process=mrelease.Process(2), command="trainer", pod_uid="abd", reclaimable_bytes=3),
        process_info(process=mrelease.Process(3), command="web", cgroup="/system.slice/web", reclaimable_bytes=2),
    ]

    def pids(column: str, **options: Any) -> list[int]:
        number = next(n for n, c in enumerate(rows.COLUMNS) if c.title == column)
        return [info.pid for info in rows.arranged(infos, number, **options)]

    assert pids("RECLAIMABLE") == [2, 3, 1]
    assert pids("RECLAIMABLE", backwards=True) == [1, 3, 2]
    assert pids("PID") == [1, 2, 3]
    assert pids("COMMAND") == [2, 1, 3]
    assert pids("COMMAND", words="TRAINER") == [2, 1]
    assert pids("PID", words="trainer abd") == [2]
    assert pids("PID", words="system.slice") == [3]
    assert pids("PID", words="nobody-has-this") == []
