"""The audit log on disk: chained across restarts and rotations, closed after a crash, given up where it cannot be trusted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]
import pytest

from mrelease._audit_verify import verify
from mrelease_agent.guard.audit.files import LogFile, Unusable
from mrelease_agent.guard.audit.records import MOST_PROCESSES, More, Process, schema
from support.audit_log import DESCRIBER, die, events, files, intent, kinds, opened, records, refused, result, sound, write

SMALL = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def test_a_chain_goes_on_across_restarts(path: Path) -> None:
    for _ in range(3):
        log = opened(path)
        write(log, 2)
        log.close()
    report = sound(path)
    assert (report.files, report.first, report.records) == (1, 1, 1 + 3 * (1 + 4 + 1))
    assert [record["seq"] for record in records(path)] == list(range(1, report.records + 1))


def test_what_is_written_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        opened(path).close()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o700
    assert {entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {0o600}


def test_an_intent_whose_agent_died_is_closed_by_the_next(path: Path) -> None:
    log = opened(path)
    (done,) = write(log, 1)
    (left,) = write(log, 1, finished=False)
    die(log)
    opened(path).close()
    assert [record["intent"] for record in events(path, "interrupted")] == [left]
    assert [record["intent"] for record in events(path, "result")] == [done]
    opened(path).close()  # and only once
    assert len(events(path, "interrupted")) == 1
    sound(path)


def test_an_intent_is_closed_after_its_file_was_rotated_away(path: Path) -> None:
    log = opened(path, SMALL, 2)
    (left,) = write(log, 1, finished=False)
    write(log, 60)
    assert min(record["seq"] for record in records(path)) > left
    die(log)
    opened(path, SMALL, 2).close()
    assert [record["intent"] for record in events(path, "interrupted")] == [left]
    sound(path)


def test_files_are_bounded_and_what_was_removed_is_said(path: Path) -> None:
    log = opened(path, SMALL, 3)
    write(log, 100)
    log.close()
    assert len(files(path)) == 3
    assert all(file.stat().st_size <= SMALL for file in files(path))
    assert all(json.loads(file.read_bytes().split(b"\n")[0])["event"] == "begin" for file in files(path))
    assert sound(path).first > 1
    files(path)[0].unlink()
    report = verify([path])
    assert (kinds(report), report.problems[0].seq) == (["missing"], 1)


def test_one_torn_last_line_is_removed_and_that_is_recorded(path: Path) -> None:
    log = opened(path)
    write(log, 2)
    log.sync()
    die(log)
    file = files(path)[0]
    whole = file.read_bytes()
    with file.open("ab") as end:
        end.write(whole.split(b"\n")[1][:50])
    assert sound(path).notes  # it may still be written
    opened(path).close()
    assert [record.get("torn") for record in events(path, "start")] == [None, 50]
    assert file.read_bytes().startswith(whole)
    sound(path)


@pytest.mark.parametrize("left", [b"", b'{"event":"begin","v":1'], ids=["empty", "torn"])
def test_an_agent_that_died_at_the_beginning_of_a_file_leaves_a_sound_log(path: Path, left: bytes) -> None:
    log = opened(path)
    write(log, 1)
    log.close()
    count = len(records(path))
    (path / f"audit-{count + 1:012d}.jsonl").write_bytes(left)
    (path / f"audit-{count + 1:012d}.jsonl").chmod(0o600)
    opened(path).close()
    assert len(files(path)) == 1
    assert [record.get("torn", 0) for record in events(path, "start")] == [0, len(left)]
    sound(path)


def damage_middle(file: Path) -> None:
    text = bytearray(file.read_bytes())
    text[len(text) // 2] ^= 1
    file.write_bytes(text)


def drop_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3] + lines[4:]))


def cut_lines(file: Path) -> None:
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-2]))


def end_with_garbage(file: Path) -> None:
    with file.open("ab") as end:
        end.write(b"garbage\n")


@pytest.mark.parametrize("harm", [damage_middle, drop_line, cut_lines, end_with_garbage])
def test_what_is_damaged_while_no_agent_runs_is_left_as_it_is_and_said(path: Path, harm: Callable[[Path], None]) -> None:
    log = opened(path)
    write(log, 5)
    log.close()
    old = files(path)[0]
    harm(old)
    damaged = old.read_bytes()
    said: list[str] = []
    log = opened(path, warn=said.append)
    write(log, 1)
    log.close()
    assert old.read_bytes() == damaged
    assert said
    assert events(path, "begin")[-1]["cause"] in said[0]
    assert verify([path]).problems
    # The new file is a chain of its own, and the next agent goes on with it.
    assert verify(files(path)[1:]).problems == []
    said.clear()
    opened(path, warn=said.append).close()
    assert said == []
    assert len(files(path)) == 2


def test_a_disk_that_is_full_loses_no_result_and_begins_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path)
    first, second = write(log, 2, finished=False)
    with monkeypatch.context() as patched:  # a real one is in tests/rpc/test_audit_faults.py
        patched.setattr(os, "write", full)
        with pytest.raises(Unusable) as caught:
            log.commit([result(first), intent(), result(second)], durable=True)
    assert caught.value.brief == "no space left on device"
    lost = log.take_lost()
    assert [type(record).__name__ for record in lost] == ["Result", "Result"]
    log.open()
    log.commit(lost, durable=True)
    log.close()
    assert len(files(path)) == 1
    assert [record["intent"] for record in events(path, "result")] == [first, second]
    assert [record["event"] for record in records(path)][-4:] == ["resumed", "result", "result", "stop"]
    assert events(path, "interrupted") == []
    sound(path)


def full(_fd: int, _text: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_could_not_be_made_durable_is_not_written_again(path: Path) -> None:
    broken = False

    def sync(fd: int) -> None:
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)

    log = opened(path, sync=sync)
    (kept,) = write(log, 1, finished=False)
    size = files(path)[0].stat().st_size
    broken = True
    with pytest.raises(Unusable, match="durable"):
        log.commit([intent(), result(kept)], durable=True)
    lost = log.take_lost()
    with pytest.raises(Unusable):
        log.open()
    assert len(files(path)) == 1  # nothing is left behind by an attempt that failed
    broken = False
    log.open()
    log.commit(lost, durable=True)
    log.close()
    assert files(path)[0].stat().st_size == size
    begin = events(path, "begin")[-1]
    assert (begin["unconfirmed"], "durable" in begin["cause"]) == (True, True)
    assert [record["intent"] for record in events(path, "result")] == [kept]
    sound(path)


def test_after_a_failure_just_the_intents_that_were_durable_are_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result was lost with the disk, and then the agent died; another intent was refused and has no end to come."""
    log = opened(path)
    (durable,) = write(log, 1, finished=False)
    monkeypatch.setattr(LogFile, "sync", unsynced)
    with pytest.raises(Unusable):
        log.commit([result(durable), intent()], durable=True)
    monkeypatch.undo()
    log.open()
    die(log)
    opened(path).close()
    assert [record["intent"] for record in events(path, "interrupted")] == [durable]
    sound(path)


def test_what_a_killed_agent_left_is_durable_before_anything_stands_on_it(path: Path) -> None:
    log = opened(path, SMALL)
    while files(path)[0].stat().st_size < SMALL - 500:
        log.commit([refused()], durable=False)
    die(log)
    synced: list[str] = []

    def sync(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        os.fdatasync(fd)

    opened(path, SMALL, sync=sync).close()
    assert len(files(path)) == 2
    assert synced[0] == str(files(path)[0])


def test_records_that_never_became_durable_do_not_make_a_log_unsound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk failed, and the file could not even be cut: what was refused still stands in it."""
    log = opened(path)
    write(log, 1)
    log.sync()
    monkeypatch.setattr(LogFile, "cut", uncut)
    monkeypatch.setattr(LogFile, "sync", unsynced)
    with pytest.raises(Unusable):
        log.commit([intent(1), intent(2)], durable=True)
    monkeypatch.undo()
    log.open()
    (after,) = write(log, 1)
    log.close()
    assert [record["seq"] for record in events(path, "intent")] == [3, 5, 6, after]
    assert after == 7  # begin and resumed have the numbers of those that were refused
    assert "never durable" in sound(path).notes[-1]
    # That they are there or not makes no difference; that anything before them is not does.
    old = files(path)[0]
    lines = old.read_bytes().splitlines(keepends=True)
    old.write_bytes(b"".join(lines[:-1]))
    sound(path)
    old.write_bytes(b"".join(lines[:-3]))
    assert kinds(verify([path])) != []


def uncut(_file: LogFile, _size: int) -> bool:
    return False


def unsynced(_file: LogFile) -> None:
    raise Unusable("input/output error")


def test_refusals_have_a_share_of_a_file_and_no_more(path: Path) -> None:
    log = opened(path, 65536, 2)
    count = 0
    while log.room_for_refusals:
        log.commit([refused()], durable=False)
        count += 1
    assert 16000 < count * 400 < 40000
    assert len(files(path)) == 1
    log.close()
    assert not opened(path, 65536, 2).room_for_refusals  # a restart gives no new share


def test_names_cannot_drive_a_terminal_or_end_a_line(path: Path) -> None:
    command = "\x1b[2J\u202e\u2028\n\x9b" + '","hash":"' + "\ud800".encode("utf-8", "backslashreplace").decode()
    log = opened(path)
    log.commit([intent(command=command, reason="Grüße")], durable=True)
    log.close()
    text = files(path)[0].read_bytes()
    assert set(text) <= set(range(0x20, 0x7F)) | {0x0A}
    (asked,) = events(path, "intent")
    assert (asked["processes"][0]["command"], asked["reason"]) == (command, "Grüße")
    sound(path)


def test_a_thousand_processes_are_all_named_and_no_line_is_long(path: Path) -> None:
    log = opened(path)
    processes = [Process(pid=pid, inode=pid, start=1, command="x" * 15, container="c" * 64, pod="p" * 36) for pid in range(1, 1001)]
    asked = intent()
    asked.processes, asked.total = processes[:MOST_PROCESSES], 1000
    log.commit([asked, More(**DESCRIBER.header(), intent=0, processes=processes[MOST_PROCESSES:])], durable=True)
    log.commit([result(asked.seq)], durable=False)
    log.close()
    (more,) = events(path, "more")
    assert more["intent"] == asked.seq
    named = [process["pid"] for record in (*events(path, "intent"), more) for process in record["processes"]]
    assert named == list(range(1, 1001))
    assert max(map(len, files(path)[0].read_bytes().split(b"\n"))) < 150_000
    sound(path)


def test_every_record_is_as_the_schema_says(path: Path) -> None:
    log = opened(path, SMALL, 2)
    write(log, 30)
    log.commit([refused()], durable=False)
    write(log, 1, finished=False)
    die(log)
    opened(path, SMALL, 2).close()
    validator: Any = jsonschema.Draft202012Validator(schema())
    found = records(path)
    assert {record["event"] for record in found} >= {"begin", "start", "stop", "intent", "result", "refused", "interrupted", "removed"}
    for record in found:
        validator.validate(record)
