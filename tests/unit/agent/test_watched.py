"""Files that are read again when they change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mrelease_agent.config import ConfigError
from mrelease_agent.config.watched import MAX_FILE_BYTES, Watched


class Told:
    """What was told, and the text of all files as the value; a text with "bad" in it cannot be used, one with "defect" is a defect."""

    def __init__(self, *files: Path) -> None:
        self.news: list[tuple[str, bool, str]] = []
        self.made = 0
        self.watched = Watched("texts", files, self._make, lambda what, stale, why: self.news.append((what, stale, why)))

    def _make(self, contents: Sequence[bytes]) -> str:
        self.made += 1
        text = b" ".join(contents).decode()
        if "bad" in text:
            raise ConfigError("it says bad")
        return text if "defect" not in text else {"": ""}[text]

    def polled(self) -> str:
        """Twice: what has changed has to be still for once."""
        self.watched.poll()
        self.watched.poll()
        return self.watched.value


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "one", tmp_path / "two"]
    for file in found:
        file.write_text(file.name)
    return found


def test_a_change_is_taken_when_it_has_been_still_for_one_look(files: list[Path]) -> None:
    told = Told(*files)
    assert told.watched.value == "one two"
    files[0].write_text("1")
    told.watched.poll()
    files[1].write_text("2")  # the key that follows its certificate
    told.watched.poll()
    assert (told.watched.value, told.news) == ("one two", [])
    told.watched.poll()
    assert (told.watched.value, told.news, told.made) == ("1 2", [("texts", False, "")], 2)


def test_without_a_change_nothing_is_read(files: list[Path]) -> None:
    told = Told(*files)
    for _ in range(5):
        told.watched.poll()
    assert (told.made, told.news) == (1, [])


def test_what_is_broken_is_told_once_and_not_taken_and_then_mended(files: list[Path]) -> None:
    told = Told(*files)
    files[0].write_text("bad")
    for _ in range(3):
        assert told.polled() == "one two"
    assert told.news == [("texts", True, "it says bad")]
    files[0].write_text("bad again")
    assert told.polled() == "one two"
    assert [stale for _, stale, _ in told.news] == [True, True]
    files[0].write_text("one")  # what was good before is good again
    assert told.polled() == "one two"
    assert told.news[2:] == [("texts", False, "")]


def test_a_defect_of_the_maker_does_not_stop_the_looking(files: list[Path]) -> None:
    told = Told(*files)
    files[0].write_text("defect")
    assert told.polled() == "one two"
    assert told.news == [("texts", True, "cannot be used (KeyError)")]
    files[0].write_text("1")
    assert told.polled() == "1 two"


def test_a_file_that_is_gone_or_forbidden_or_none_keeps_the_last(files: list[Path], tmp_path: Path) -> None:
    told = Told(*files)
    files[0].unlink()
    assert told.polled() == "one two"
    assert told.news[-1][2] == f"cannot read {files[0]}: No such file or directory; name a file that the agent's user may read"
    files[0].mkdir()
    assert told.polled() == "one two"
    assert told.news[-1][1]
    files[0].rmdir()
    os.mkfifo(files[0])  # nobody writes to it: reading it must not wait
    assert told.polled() == "one two"
    assert told.news[-1][2] == f"{files[0]} is not a regular file: name a file"
    files[0].unlink()
    with files[0].open("wb") as huge:
        huge.truncate(MAX_FILE_BYTES + 1)
    assert told.polled() == "one two"
    assert "is larger than" in told.news[-1][2]
    files[0].unlink()
    (tmp_path / "elsewhere").write_text("3")
    files[0].symlink_to("elsewhere")
    assert told.polled() == "3 two"


def test_the_same_size_and_time_do_not_hide_another_content(files: list[Path]) -> None:
    told = Told(*files)
    before = files[0].stat()
    files[0].write_text("ONE")
    os.utime(files[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told.polled() == "ONE two"


def test_a_link_that_is_turned_elsewhere_changes_all_files_behind_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(name)
        (tmp_path / name / "y").write_text(name)
    (tmp_path / "..data").symlink_to("a")
    told = Told(tmp_path / "..data" / "x", tmp_path / "..data" / "y")
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert told.polled() == "b b"


def test_what_cannot_be_used_from_the_beginning_is_an_error(files: list[Path]) -> None:
    files[0].write_text("bad")
    with pytest.raises(ConfigError, match="it says bad"):
        Told(*files)
    files[0].unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        Told(*files)
