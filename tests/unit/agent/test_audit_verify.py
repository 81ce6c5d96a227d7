"""Verification: whatever is done to an audit log afterwards is found, said where, and what it is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mrelease._audit_chain import Head, seal, write_head
from mrelease._audit_verify import verify
from support.audit_log import die, files, kinds, opened, records, sound, write

Lines = list[bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two files, the first one rotated away from."""
    log = opened(tmp_path / "audit", 4096, 8)
    write(log, 5)
    log.close()
    assert len(files(tmp_path / "audit")) == 2
    return tmp_path / "audit"


def edited(path: Path, edit: Callable[[Lines], Lines], file: int = 0) -> None:
    chosen = files(path)[file]
    chosen.write_bytes(b"".join(edit(chosen.read_bytes().splitlines(keepends=True))))


def rehashed(line: bytes, **fields: object) -> bytes:
    """The record with other fields and a hash that fits."""
    record = {**json.loads(line), **fields}
    del record["hash"]
    return seal(json.dumps(record, separators=(",", ":")).encode())[0]


def test_an_untouched_log_is_sound(path: Path) -> None:
    report = sound(path)
    assert (report.first, report.last.seq, report.records) == (1, len(records(path)), len(records(path)))
    assert report.last.hash == records(path)[-1]["hash"]


@pytest.mark.parametrize("file", [0, 1])
def test_no_byte_can_be_changed(path: Path, file: int) -> None:
    chosen = files(path)[file]
    text = chosen.read_bytes()
    rng = random.Random(1)
    # Every byte of the record in the middle, which has all classes: braces, quotes, names, numbers, hashes, the newline.
    lines = text.splitlines(keepends=True)
    start = sum(map(len, lines[:2]))
    for at in range(start, start + len(lines[2])):
        for new in {text[at] ^ 1, text[at] ^ 0x20, rng.randrange(256), 0x0A} - {text[at]}:
            chosen.write_bytes(text[:at] + bytes([new]) + text[at + 1 :])
            report = verify([path])
            assert report.problems, (at, new)
            assert report.problems[0].file == chosen.name
    chosen.write_bytes(text)
    sound(path)


def test_a_changed_record_is_named(path: Path) -> None:
    edited(path, lambda lines: [*lines[:2], lines[2].replace(b"trainer", b"printer"), *lines[3:]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line, problem.seq, problem.file) == ("changed", 3, 3, files(path)[0].name)


def test_a_record_that_was_changed_and_hashed_anew_is_named(path: Path) -> None:
    edited(path, lambda lines: [*lines[:2], rehashed(lines[2], target="process 9"), *lines[3:]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line, problem.seq) == ("changed", 3, 3)


def test_a_last_record_that_was_changed_and_hashed_anew_is_known_by_the_head(path: Path) -> None:
    edited(path, lambda lines: [*lines[:-1], rehashed(lines[-1], pid=1)], file=1)
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.seq) == ("changed", len(records(path)))


def test_two_records_in_each_others_place(path: Path) -> None:
    edited(path, lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line, problem.seq) == ("reordered", 4, 4)


@pytest.mark.parametrize("count", [1, 3])
def test_a_missing_record_is_numbered(path: Path, count: int) -> None:
    edited(path, lambda lines: [*lines[:3], *lines[3 + count :]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line, problem.seq) == ("missing", 4, 4)
    assert str(3 + count) in problem.text


def test_a_copy_of_a_record(path: Path) -> None:
    edited(path, lambda lines: [*lines[:5], lines[2], *lines[5:]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line, problem.seq) == ("inserted", 6, 3)


@pytest.mark.parametrize("extra", [b"\n", b"{}\n", b"garbage\n", b"\xff\x00\n"])
def test_a_line_of_something_else(path: Path, extra: bytes) -> None:
    edited(path, lambda lines: [*lines[:3], extra, *lines[3:]])
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.line) == ("inserted", 4)


def test_a_made_up_record_that_fits_is_known_by_the_one_behind(path: Path) -> None:
    def insert(lines: Lines) -> Lines:
        before = json.loads(lines[2])
        return [*lines[:3], rehashed(lines[2], seq=before["seq"] + 1, prev=before["hash"]), *lines[3:]]

    edited(path, insert)
    assert kinds(verify([path])) == ["inserted", "changed"]


@pytest.mark.parametrize("lines", [1, 2, 5])
def test_a_tail_that_was_cut_off_is_known_by_the_head(path: Path, lines: int) -> None:
    last = len(records(path))
    edited(path, lambda found: found[:-lines], file=1)
    (problem,) = verify([path]).problems
    assert (problem.kind, problem.seq) == ("truncated", last - lines + 1)


def test_a_tail_that_was_cut_within_a_line_is_known_by_the_head(path: Path) -> None:
    chosen = files(path)[1]
    chosen.write_bytes(chosen.read_bytes()[:-20])
    report = verify([path])
    assert kinds(report) == ["truncated"]
    assert report.notes


def test_a_tail_of_an_older_file_is_known_by_the_next(path: Path) -> None:
    edited(path, lambda lines: lines[:-1])
    assert kinds(verify([path])) == ["missing"]
    chosen = files(path)[0]
    chosen.write_bytes(chosen.read_bytes()[:-20])
    assert "changed" in kinds(verify([path]))


def test_a_missing_file_is_known_by_the_next_and_the_newest_by_the_head(path: Path) -> None:
    first, second = (file.read_bytes() for file in files(path))
    files(path)[0].unlink()
    assert kinds(verify([path])) == ["missing"]
    (path / "audit-000000000001.jsonl").write_bytes(first)
    files(path)[1].unlink()
    assert kinds(verify([path])) == ["truncated"]
    files(path)[0].unlink()
    assert kinds(verify([path])) == ["truncated"]
    assert second


def test_who_writes_all_anew_is_found_by_a_hash_that_was_noted_elsewhere_alone(path: Path) -> None:
    """The limit: whoever may write the directory can make another log that is whole in itself."""
    noted = records(path)[5]["hash"]
    last = sound(path).last
    lines = [line for file in files(path) for line in file.read_bytes().splitlines(keepends=True)]
    for file in files(path)[1:]:
        file.unlink()
    forged: Lines = []
    prev = "0" * 64
    for number, line in enumerate(lines[:8]):
        forged.append(rehashed(line, prev=prev, **({"target": "process 1"} if number == 3 else {})))
        prev = json.loads(forged[-1])["hash"]
    files(path)[0].write_bytes(b"".join(forged))
    (path / "head").write_bytes(write_head(Head(8, prev)))
    assert verify([path]).problems == []
    assert kinds(verify([path], [noted])) == ["missing"]
    assert kinds(verify([path], [last.hash])) == ["missing"]


def test_files_alone_are_verified_as_far_as_they_go(path: Path) -> None:
    first, second = files(path)
    assert verify([first, second]).problems == []
    assert verify([first]).problems == []
    report = verify([second])
    assert report.problems == []
    assert "not all files" in report.notes[0]


def test_a_head_that_is_behind_says_nothing_wrong(path: Path) -> None:
    for content in (b"", b"garbage", write_head(Head(3, records(path)[2]["hash"]))):
        (path / "head").write_bytes(content)
        sound(path)
    (path / "head").unlink()
    sound(path)


def test_a_log_can_be_verified_while_it_is_written_and_rotated_away(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", 4096, 2)
    for _ in range(30):
        write(log, 3)
        sound(tmp_path / "audit")
    die(log)


def test_an_empty_directory_is_said_to_be_one(tmp_path: Path) -> None:
    report = verify([tmp_path])
    assert (report.records, report.problems) == (0, [])
    assert report.notes == ["there is no file of an audit log"]
