"""Directory and files of the audit log: what somebody else did to them is noticed before the next intent, or not used at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mrelease._audit_verify import verify
from mrelease_agent.guard.audit.files import Unusable
from support import audit_log
from support.audit_log import files, intent, opened, records, sound, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def delete(path: Path) -> None:
    files(path)[0].unlink()


def truncate(path: Path) -> None:
    os.truncate(files(path)[0], 100)


def append(path: Path) -> None:
    file = files(path)[0]
    file.write_bytes(file.read_bytes() + b"x\n")


def rename(path: Path) -> None:
    files(path)[0].rename(path / "elsewhere")


def replace(path: Path) -> None:
    file = files(path)[0]
    text = file.read_bytes()
    file.unlink()
    file.write_bytes(text)
    file.chmod(0o600)


def hard_link(path: Path) -> None:
    os.link(files(path)[0], path / "copy")


def make_readable(path: Path) -> None:
    files(path)[0].chmod(0o644)


def move_away(path: Path) -> None:
    path.rename(path.parent / "moved")


def let_others_in(path: Path) -> None:
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("harm", "brief"),
    [
        (delete, "its file was deleted"),
        (truncate, "its file was truncated"),
        (append, "its file was written by somebody else"),
        (rename, "its file was deleted"),
        (replace, "its file was replaced"),
        (hard_link, "its file has a second name"),
        (make_readable, "others may reach it"),
        (move_away, "no such file or directory"),
        (let_others_in, "others may reach it"),
    ],
)
def test_a_file_that_somebody_touched_is_noticed_before_the_next_intent(path: Path, harm: Callable[[Path], None], brief: str) -> None:
    log = opened(path)
    write(log, 2)
    log.sync()
    head = log.head
    harm(path)
    left = {file: file.read_bytes() for file in path.iterdir() if file.name != "head"} if path.exists() else {}
    with pytest.raises(Unusable) as caught:
        log.commit([intent()], durable=True)
    assert caught.value.brief == brief
    assert {file: file.read_bytes() for file in left} == left  # evidence
    if path.exists():
        path.chmod(0o700)
    log.open()
    write(log, 1)
    log.close()
    # The chain goes on from what was durable, whatever has become of it.
    newest = records(path)[-5:]
    assert (newest[0]["event"], newest[0]["seq"], newest[0]["prev"]) == ("begin", head.seq + 1, head.hash)
    assert verify(files(path)[-1:]).problems == []


def test_two_agents_do_not_write_one_log(path: Path) -> None:
    first = opened(path)
    second = audit_log.chain(path)
    with pytest.raises(Unusable) as caught:
        second.open()
    assert caught.value.brief == "another agent writes it"
    write(first, 1)
    first.close()
    second.open()
    second.close()
    sound(path)


def test_a_log_that_another_agent_went_on_with_is_read_again(path: Path) -> None:
    log = opened(path)
    write(log, 1)
    log.sync()
    os.rename(path, path.parent / "moved")  # noqa: PTH104
    with pytest.raises(Unusable):
        log.commit([intent()], durable=True)
    (path.parent / "moved").rename(path)
    other = opened(path)
    write(other, 3)
    other.close()
    log.open()
    write(log, 1)
    log.close()
    sound(path)


def make_link(path: Path) -> None:
    path.symlink_to("/var/tmp")


def make_file(path: Path) -> None:
    path.write_text("a file")


def make_public(path: Path) -> None:
    path.mkdir()
    path.chmod(0o755)


@pytest.mark.parametrize("make", [make_link, make_file, make_public])
def test_a_directory_that_is_not_the_agents_own_is_not_used(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(Unusable):
        opened(path)


def test_a_link_in_the_place_of_a_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    log = opened(path)
    write(log, 1)
    log.close()
    elsewhere = tmp_path / "elsewhere"
    files(path)[0].rename(elsewhere)
    (path / "audit-000000000001.jsonl").symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(Unusable):
        opened(path)
    assert elsewhere.read_bytes() == before
