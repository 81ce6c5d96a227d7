"""The demo's scene: what it starts is there, and is gone again however it is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrelease.demo.budget import affordable, available_bytes
from mrelease.demo.cgroups import hierarchies
from mrelease.demo.interrupts import Interrupted, interruptible, uninterrupted
from mrelease.demo.processes import Child, SceneError
from mrelease.demo.scene import Scene

MIB = 1 << 20


def directories() -> list[Path]:
    return [place.path / f"mrelease-demo-{os.getpid()}" for place in hierarchies().values()]


def test_a_scene_leaves_nothing_behind_when_it_fails() -> None:
    pids: list[int] = []

    def fail() -> None:
        with Scene() as scene:
            scene.add_victim(8 * MIB)
            scene.wait_ready()
            scene.add_spinners()
            scene.starve()
            pids.extend(child.pid for child in (*scene.victims, *scene.spinners))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(pids) == 1 + 2 * len(os.sched_getaffinity(0))
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not [directory for directory in directories() if directory.exists()]


def test_a_starved_victim_has_the_idle_class() -> None:
    with Scene(controllers=()) as scene:
        victim = scene.add_victim(MIB)
        scene.wait_ready()
        assert scene.starve() == "SCHED_IDLE"
        assert os.sched_getscheduler(victim.pid) == os.SCHED_IDLE


def test_a_victim_has_a_memory_cgroup_of_its_own_where_one_can_be_made() -> None:
    if os.geteuid() != 0 or "memory" not in hierarchies():
        pytest.skip("needs root and a memory cgroup hierarchy")
    with Scene() as scene:
        scene.add_victim(16 * MIB)
        scene.add_victim(8 * MIB)
        scene.wait_ready()
        gauge = scene.gauge()
        try:
            first, second = gauge.read()
        finally:
            gauge.close()
    assert "charge of a memory cgroup" in gauge.method
    assert first >= 16 * MIB
    assert 8 * MIB <= second < 16 * MIB


def test_a_victim_that_does_not_start_is_an_error_that_says_so() -> None:
    child = Child("victim", "no number", "busy")
    try:
        child.go()
        with pytest.raises(SceneError, match="a victim did not start"):
            child.wait_ready("a victim")
    finally:
        child.end()
        child.end()


def test_children_end_with_their_parent() -> None:
    program = (
        "import signal\n"
        "from mrelease.demo.processes import Child\n"
        "child = Child('victim', 1 << 20, 'asleep'); child.go(); child.wait_ready('a victim')\n"
        "print(child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert select.select([pidfd], [], [], 30)[0], "the child outlived its parent"
        finally:
            os.close(pidfd)


def test_the_first_signal_unwinds_and_a_second_one_does_not_disturb_the_cleaning() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_waits_until_what_may_not_be_interrupted_is_done() -> None:
    done: list[str] = []

    def work() -> None:
        with uninterrupted(), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("to its end")
        done.append("never")

    with interruptible(), pytest.raises(Interrupted):
        work()
    assert done == ["to its end"]


@pytest.mark.parametrize(
    ("size", "available", "expected"),
    [
        (1024, 4096, 1024),
        (1024, 2560, 1024),
        (1024, 2559, 1008),
        (1024, 600, 32),
        (1024, 512, 0),
        (1024, 0, 0),
    ],
)
def test_victims_shrink_to_what_is_free(size: int, available: int, expected: int) -> None:
    assert affordable(size * MIB, 2, available * MIB) == expected * MIB


def test_what_is_free_is_more_than_nothing_and_no_more_than_the_machine_has() -> None:
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
