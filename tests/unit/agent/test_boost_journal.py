"""The journal of lifted weights: what an agent that died can rely on, and what its successor does not believe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrelease_agent.boosting import journal as module
from mrelease_agent.boosting.journal import NAME, Entry, Journal, JournalError
from mrelease_agent.boosting.recovery import Recovered
from mrelease_agent.boosting.weights import lifted_value


def entry(path: str = "/pods", was: str = "2") -> Entry:
    return Entry(1, path, 4711, "cpu.shares", was, "262144")


def left_by(directory: Path, *lines: bytes) -> Journal:
    (directory / NAME).write_bytes(b"".join(lines))
    return Journal(directory)


def lines_of(directory: Path, *entries: Entry) -> list[bytes]:
    """What an agent that lifted these and died has written."""
    journal = Journal(directory)
    for each in entries:
        journal.begin(each)
    journal.close()
    return (directory / NAME).read_bytes().splitlines(keepends=True)


def test_what_was_begun_and_not_ended_is_found_in_its_order(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    numbers = [first.begin(entry(path)) for path in ("/a", "/b", "/c")]
    first.end(numbers[1])
    first.close()
    second = Journal(tmp_path)
    assert second.found.entries == (entry("/a"), entry("/c"))
    assert second.found.corrupt == 0
    assert not second.found.other_boot


def test_it_is_empty_when_everything_has_ended(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    numbers = [journal.begin(entry(path)) for path in ("/a", "/b")]
    assert (tmp_path / NAME).stat().st_size
    for number in numbers:
        journal.end(number)
    assert not (tmp_path / NAME).stat().st_size


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Journal(tmp_path)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


def test_it_has_one_owner_for_as_long_as_that_lives(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(JournalError, match="another agent"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path)


def test_directory_that_is_missing_and_link_to_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="No such file"):
        Journal(tmp_path / "missing")
    target = tmp_path / "target"
    target.touch()
    (tmp_path / NAME).symlink_to(target)
    with pytest.raises(JournalError):
        Journal(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"\xff\xfe\n",
        b"\0" * 4096 + b"\n",
        b"[" * 100_000 + b"\n",
        b'{"boot":1,"number":1}\n',
        b'{"boot":"x","number":"1"}\n',
        b'{"boot":"x","number":1,"lift":{}}\n',
        b'{"boot":"x","number":1,"v":"2"}\n',
        b'{"boot":"x","number":1,"v":0}\n',
    ],
)
def test_line_that_is_none_is_skipped_and_counted(tmp_path: Path, line: bytes) -> None:
    good = lines_of(tmp_path, entry("/a"), entry("/b"))
    found = left_by(tmp_path, good[0], line, good[1]).found
    assert found.entries == (entry("/a"), entry("/b"))
    assert found.corrupt == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"cpu.shares"', b'"cgroup.procs"'),
        (b'"cpu.shares"', b'"../cpu.shares"'),
        (b'"was":"2"', b'"was":"2\\n3"'),
        (b'"was":"2"', b'"was":""'),
        (b'"was":"2"', b'"was":2'),
        (b'"inode":4711', b'"inode":null'),
    ],
)
def test_entry_that_no_agent_writes_is_not_believed(tmp_path: Path, old: bytes, new: bytes) -> None:
    (line,) = lines_of(tmp_path, entry())
    assert old in line
    found = left_by(tmp_path, line.replace(old, new)).found
    assert found.entries == ()
    assert found.corrupt == 1


def test_torn_last_line_is_skipped_and_what_comes_after_is_whole(tmp_path: Path) -> None:
    good = lines_of(tmp_path, entry("/a"), entry("/b"))
    journal = left_by(tmp_path, good[0], good[1][:-20])
    assert journal.found.entries == (entry("/a"),)
    assert journal.found.corrupt == 1
    journal.begin(entry("/c"))
    journal.close()
    assert Journal(tmp_path).found.entries == (entry("/a"), entry("/c"))


def test_journal_of_another_boot_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_of(tmp_path, entry())
    monkeypatch.setattr(module, "boot_id", lambda: "another")
    found = Journal(tmp_path).found
    assert found.entries == ()
    assert found.other_boot


def test_keys_that_a_later_version_has_added_do_not_keep_from_restoring(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, entry())
    found = left_by(tmp_path, line.replace(b'"lift":{', b'"since":1,"lift":{"new":[],')).found
    assert found.entries == (entry(),)
    assert found.corrupt == found.newer == 0


def test_lines_of_a_later_version_are_kept_for_it_and_nothing_is_done_by_them(tmp_path: Path) -> None:
    (line,) = lines_of(tmp_path, entry("/a"))
    later = line.replace(b'"number":1,', b'"v":2,"number":77,')
    unknown = line.replace(b'"number":1,', b'"number":78,"v":3,"moved":true,').replace(b"cpu.shares", b"io.weight")
    journal = left_by(tmp_path, later, line, unknown)
    assert (journal.found.entries, journal.found.newer, journal.found.corrupt) == ((entry("/a"),), 2, 0)
    journal.settle_found([])
    number = journal.begin(entry("/b"))
    assert number > 78, "its lines and ours are told apart by their number"
    journal.end(number)
    journal.close()
    again = Journal(tmp_path)
    assert (again.found.entries, again.found.newer) == ((), 2)
    again.settle_found([])
    again.close()
    assert (tmp_path / NAME).read_bytes() == later + unknown


def test_what_could_not_be_restored_is_kept_for_the_next_start(tmp_path: Path) -> None:
    lines_of(tmp_path, entry("/a"), entry("/b"))
    journal = Journal(tmp_path)
    journal.settle_found([entry("/b")])
    number = journal.begin(entry("/c"))
    journal.end(number)
    journal.close()
    assert Journal(tmp_path).found.entries == (entry("/b"),)


def test_it_does_not_grow_for_ever_while_something_is_lifted_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COMPACT_AT", 4096)
    journal = Journal(tmp_path)
    journal.begin(entry("/always"))
    for _ in range(200):
        journal.end(journal.begin(entry("/again")))
        assert (tmp_path / NAME).stat().st_size < 5000
    with pytest.raises(JournalError, match="another agent"):  # it is locked still
        Journal(tmp_path)
    journal.close()
    assert Journal(tmp_path).found.entries == (entry("/always"),)
    assert os.listdir(tmp_path) == [NAME]


def test_full_disk_is_an_error_before_anything_is_lifted_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake write(2), for a disk that is full in the middle of a line."""
    journal = Journal(tmp_path)
    journal.begin(entry("/a"))
    real = os.write

    def short(fd: int, data: bytes) -> int:
        return real(fd, data[:10])

    monkeypatch.setattr(os, "write", short)
    with pytest.raises(JournalError, match="No space left"):
        journal.begin(entry("/b"))
    monkeypatch.undo()
    journal.begin(entry("/c"))
    journal.close()
    found = Journal(tmp_path).found
    assert found.entries == (entry("/a"), entry("/c"))
    assert found.corrupt == 0


@pytest.mark.parametrize(
    ("file", "highest", "was", "now"),
    [
        ("cpu.shares", "262144", "2", "262144"),
        ("cpu.shares", "262144", "262144", None),
        ("cpu.idle", "0", "1", "0"),
        ("cpu.idle", "0", "0", None),
        ("cpu.idle", "0", "", None),
        ("cpu.max", "max", "5000 50000", "max 50000"),
        ("cpu.max", "max", "max 100000", None),
        ("cpu.cfs_quota_us", "-1", "5000", "-1"),
    ],
)
def test_what_a_file_shows_once_it_is_lifted(file: str, highest: str, was: str, now: str | None) -> None:
    assert lifted_value(file, highest, was) == now


def test_recovery_says_in_one_line_what_it_did() -> None:
    assert not Recovered()
    assert str(Recovered()) == "nothing was left behind"
    assert Recovered(weights=3, processes=2, leaves=1, corrupt_lines=1)
    assert str(Recovered(weights=3, processes=2, leaves=1, corrupt_lines=1)) == (
        "CPU weights restored: 3; processes put back: 2; cgroups removed: 1; unreadable lines of the journal: 1"
    )
    assert str(Recovered(newer_lines=2)).startswith("lines of the journal of a later version, kept: ")
    assert str(Recovered(other_boot=True)) == "the journal of another boot was dropped"
