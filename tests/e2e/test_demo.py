"""`mrelease demo` as a person runs it: it shows what it promises and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mrelease.demo.cgroups import hierarchies

MIB = 1 << 20
PATIENCE = 100.0


class Demo:
    """A running demo in a session and a temporary directory of its own."""

    def __init__(self, temporary: Path, *arguments: str) -> None:
        self.temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mrelease", "demo", "--size", "64MiB", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(self.temporary)},
        )

    def read_until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        pytest.fail(f"the demo ended without saying {text!r}: {self.process.communicate()[1]}")

    def members(self) -> list[int]:
        """Every process that the demo started, however it was adopted since: they stay in its session."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
                    if int(fields[3]) == self.process.pid and int(entry.name) != self.process.pid:
                        found.append(int(entry.name))
        return found

    def cgroups(self) -> list[Path]:
        places = {place.path / f"mrelease-demo-{self.process.pid}" for place in hierarchies().values()}
        return [place for place in places if place.exists()]

    def left_behind(self) -> list[Any]:
        return [*self.members(), *self.cgroups(), *self.temporary.iterdir()]


@contextlib.contextmanager
def running(*arguments: str) -> Generator[Demo, None, None]:
    # Short, because a socket's path has to fit.
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        demo = Demo(Path(temporary), *arguments)
        try:
            yield demo
        finally:
            if demo.process.poll() is None:
                demo.process.kill()
            demo.process.communicate()


def test_json_has_both_victims_and_nothing_is_left() -> None:
    with running("--limit", "3s", "--json") as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
        assert demo.process.returncode == 0, err
        assert demo.left_behind() == []
    data = json.loads(out)
    assert set(data) == {"schema", "machine", "scene", "victims", "agent", "ratio", "ratio_is_lower_bound", "notes"}
    assert data["schema"] == 1
    assert data["machine"]["kernel"] == os.uname().release
    assert data["scene"]["size_bytes"] == 64 * MIB
    assert data["scene"]["spinners"] == 2 * len(os.sched_getaffinity(0))
    assert [victim["method"] for victim in data["victims"]] == ["kill", "agent"]
    for victim in data["victims"]:
        assert victim["held_before_bytes"] >= 64 * MIB
        assert [seconds for seconds, _ in victim["samples"]] == sorted(seconds for seconds, _ in victim["samples"])
        assert not Path(f"/proc/{victim['pid']}").exists()
    assert data["agent"]["failure"] == ""
    assert data["agent"]["verdict"] in {"RELEASED", "EXITED", "HELD"}


def test_a_person_sees_progress_and_one_table() -> None:
    with running("--limit", "2s") as demo:
        out, err = demo.process.communicate(timeout=PATIENCE)
        assert demo.process.returncode == 0, err
        assert demo.left_behind() == []
    assert "still held: kill(2) alone" in out
    assert out.count("MEMORY BACK") == 1
    assert "starved by SCHED_IDLE" in out


def test_a_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "demo.png"
    with running("--limit", "1s", "--png", str(file)) as demo:
        _, err = demo.process.communicate(timeout=PATIENCE)
        assert demo.process.returncode == 0, err
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting an agent", "two victims", "compete", "both are killed now"])
def test_an_interrupted_demo_cleans_up(number: signal.Signals, moment: str) -> None:
    with running("--limit", "30s") as demo:
        demo.read_until(moment)
        demo.process.send_signal(number)
        _, err = demo.process.communicate(timeout=PATIENCE)
        assert demo.process.returncode == 128 + number
        assert err == f"mrelease demo: {number.name}: stopped and cleaned up\n"
        assert demo.left_behind() == []


def test_an_interrupted_cleaning_goes_to_its_end() -> None:
    with running("--limit", "1s") as demo:
        demo.read_until("cleaning up")
        demo.process.send_signal(signal.SIGINT)
        demo.process.communicate(timeout=PATIENCE)
        assert demo.left_behind() == []


def test_no_process_outlives_a_demo_that_was_killed() -> None:
    with running("--limit", "30s") as demo:
        demo.read_until("both are killed now")
        pidfds = [os.pidfd_open(pid) for pid in demo.members()]
        try:
            assert pidfds
            demo.process.kill()
            demo.process.wait()
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], PATIENCE)[0], "a process outlived the demo"
        finally:
            for pidfd in pidfds:
                os.close(pidfd)
            for place in demo.cgroups():  # which nobody was left to remove
                for leaf in place.iterdir():
                    if leaf.is_dir():
                        leaf.rmdir()
                place.rmdir()
