"""`mrelease audit`: what verify and show say of a log, without an agent and without what the agent needs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from support import patience
from support.audit_log import files, intent, opened, records, refused, result, write
from support.lab import wait_readable
from support.sdk_cli import Cli, cli_in


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Records 1 and 2 are begin and start, then an intent with its result, a refusal, an intent of another pid with HELD."""
    log = opened(tmp_path / "audit")
    write(log, 1)
    log.commit([refused("uid:1000")], durable=False)
    held = intent(7, reason="oom")
    log.commit([held], durable=True)
    log.commit([result(held.seq, "HELD")], durable=True)
    log.close()
    return tmp_path / "audit"


def test_a_sound_log(cli: Cli, path: Path) -> None:
    done = cli("audit", "verify", str(path))
    last = records(path)[-1]
    assert (done.code, done.lines) == (0, [f"ok, 8 records (1 to 8) in 1 files, head 8 {last['hash']}"])
    data = cli("audit", "verify", str(path), "-o", "json").data
    assert (data["ok"], data["records"], data["last"]) == (True, 8, {"seq": 8, "hash": last["hash"]})


def test_a_broken_log_names_file_line_and_record(cli: Cli, path: Path) -> None:
    file = files(path)[0]
    file.write_bytes(file.read_bytes().replace(b"trainer", b"printer", 1))
    done = cli("audit", "verify", str(path))
    assert done.code == 3
    assert done.lines[0] == f"{file.name}:3: record 3: changed: its hash is not that of its text"
    assert done.lines[-1].startswith("broken: 1 problems")
    data = cli("audit", "verify", str(path), "-o", "json").data
    assert data["problems"] == [
        {"kind": "changed", "file": file.name, "line": 3, "seq": 3, "text": "its hash is not that of its text"},
    ]


def test_a_hash_that_was_noted_elsewhere(cli: Cli, path: Path) -> None:
    noted = records(path)[4]["hash"]
    assert cli("audit", "verify", str(path), "--expect-hash", noted).code == 0
    done = cli("audit", "verify", str(path), "--expect-hash", noted, "--expect-hash", "0" * 64)
    assert done.code == 3
    assert "0" * 64 in done.lines[0]
    assert cli("audit", "verify", str(path), "--expect-hash", "abc").code == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--caller", "uid:1000"], [5]),
        (["--caller", "spiffe"], [3, 4, 6, 7]),
        (["--outcome", "held"], [7]),
        (["--outcome", "CALLER_NOT_PERMITTED"], [5]),
        (["--pid", "7"], [6]),
        (["--request-id", "none"], []),
        (["--since", "1h"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--since", "2099-01-01T00:00:00Z"], []),
        (["--outcome", "RELEASED", "--caller", "uid"], []),
    ],
)
def test_what_is_shown_can_be_chosen(cli: Cli, path: Path, options: list[str], expected: list[int]) -> None:
    done = cli("audit", "show", str(path), *options, "-o", "json")
    assert done.code == 0
    assert [json.loads(line)["seq"] for line in done.lines] == expected
    assert [int(line.split()[0]) for line in cli("audit", "show", str(path), *options).lines[1:]] == expected


def test_what_others_chose_drives_no_terminal(cli: Cli, tmp_path: Path) -> None:
    log = opened(tmp_path / "audit")
    log.commit([intent(reason="\x1b[2J\u202e")], durable=True)
    log.close()
    shown = cli("audit", "show", str(tmp_path / "audit")).out
    assert "\x1b" not in shown
    assert r"\x1b[2J\u202e" in shown


def test_lines_that_are_not_of_the_log_are_said_to_be_there(cli: Cli, path: Path) -> None:
    with files(path)[0].open("ab") as file:
        file.write(b"\xff\n[1]\n" + b"[" * 100_000 + b"\n" + records_line(path).replace(b"HELD", b"HELP"))
    done = cli("audit", "show", str(path))
    assert done.code == 3
    assert "audit verify" in done.err


def records_line(path: Path) -> bytes:
    return next(line for line in files(path)[0].read_bytes().splitlines(keepends=True) if b"HELD" in line)


@pytest.mark.parametrize("arguments", [["/nonexistent"], ["/tmp", "/var"], ["--since", "yesterday"], ["--pid", "0"]])
def test_what_cannot_be_is_refused(cli: Cli, arguments: list[str]) -> None:
    assert cli("audit", "show", *arguments).code == 2


def test_a_log_that_may_not_be_read(cli: Cli, path: Path) -> None:
    if os.geteuid() == 0:
        files(path)[0].unlink()
        files_gone = path / "audit-000000000001.jsonl"
        files_gone.mkdir()
    else:
        files(path)[0].chmod(0)
    for command in ("verify", "show"):
        assert cli("audit", command, str(path)).code == 2


@contextlib.contextmanager
def following(path: Path) -> Generator[subprocess.Popen[bytes], None, None]:
    command = [sys.executable, "-m", "mrelease", "audit", "show", str(path), "--follow", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def test_follow_shows_what_comes_also_in_new_files(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    log = opened(path, 2048, 100)
    with following(path) as process:
        assert process.stdout
        shown = b""
        for _ in range(3):
            write(log, 3)
            last = records(path)[-1]["hash"].encode()
            while last not in shown:
                assert wait_readable(process.stdout.fileno(), 30 * patience.FACTOR)
                shown += process.stdout.read(65536)
    assert len(files(path)) > 2
    assert [json.loads(line)["seq"] for line in shown.splitlines()] == [record["seq"] for record in records(path)]
    log.close()


def test_it_needs_nothing_of_the_agent(path: Path) -> None:
    code = (
        "import sys; sys.modules['msgspec'] = sys.modules['mrelease_agent'] = None\n"
        "from mrelease.cli.main import run\n"
        f"sys.exit(run(['audit', 'verify', {str(path)!r}]))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
