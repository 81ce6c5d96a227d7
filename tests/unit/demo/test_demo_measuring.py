"""What the demo's observer says of memory: never back because a figure of the process reads 0."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from mrelease.demo.gauges import ChargeGauge, NodeGauge, rss_anon
from mrelease.demo.observe import Observer, Track
from mrelease.demo.processes import Child

MIB = 1 << 20
FIRST, SECOND = 101, 102


class FakeNode:
    """A /proc of two processes, and the node's AnonPages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.anon_pages = 1000 * MIB
        self.exited: set[int] = set()
        self.holds(FIRST, 100)
        self.holds(SECOND, 100)

    def holds(self, pid: int, mib: int | None) -> None:
        """Write the status of the process's only thread; None: it has given up its address space."""
        task = self.root / str(pid) / "task" / str(pid)
        task.mkdir(parents=True, exist_ok=True)
        (task / "status").write_text("Name:\tx\n" + ("" if mib is None else f"RssAnon:\t{mib * 1024} kB\n"))

    def gauge(self) -> NodeGauge:
        return NodeGauge([FIRST, SECOND], self.exited.__contains__, proc=self.root, anon_pages=lambda: self.anon_pages)


@pytest.fixture
def fake(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


def test_memory_that_can_be_read_is_what_is_held(fake: FakeNode) -> None:
    gauge = fake.gauge()
    fake.holds(FIRST, 30)
    assert gauge.read() == [30 * MIB, 100 * MIB]


def test_a_given_up_address_space_is_held_until_the_node_has_its_pages_back(fake: FakeNode) -> None:
    gauge = fake.gauge()
    fake.holds(FIRST, None)
    assert gauge.read() == [100 * MIB, 100 * MIB]
    fake.anon_pages -= 60 * MIB
    assert gauge.read() == [40 * MIB, 100 * MIB]


def test_what_nobody_can_read_is_shared_out_by_what_each_held(fake: FakeNode) -> None:
    gauge = fake.gauge()
    fake.holds(SECOND, 50)
    fake.anon_pages -= 50 * MIB
    assert gauge.read() == [100 * MIB, 50 * MIB]
    fake.holds(FIRST, None)
    fake.holds(SECOND, None)
    fake.anon_pages -= 75 * MIB
    assert gauge.read() == [50 * MIB, 25 * MIB]


def test_a_victim_never_holds_more_than_it_did(fake: FakeNode) -> None:
    gauge = fake.gauge()
    fake.holds(FIRST, None)
    fake.anon_pages += 500 * MIB  # somebody else's
    assert gauge.read() == [100 * MIB, 100 * MIB]


def test_an_exited_victim_holds_nothing(fake: FakeNode) -> None:
    gauge = fake.gauge()
    fake.exited.add(FIRST)
    assert gauge.read() == [0, 100 * MIB]


def test_a_charge_is_read_anew_each_time(tmp_path: Path) -> None:
    charge = tmp_path / "memory.current"
    charge.write_text("4096\n")
    gauge = ChargeGauge([charge])
    try:
        assert gauge.read() == [4096]
        charge.write_text("12\n")
        assert gauge.read() == [12]
    finally:
        gauge.close()


def test_memory_is_back_when_a_twentieth_is_held() -> None:
    track = Track(before=100 * MIB)
    track.add(0.1, 6 * MIB, exited=False)
    before = track.back_seconds
    track.add(0.2, 5 * MIB, exited=False)
    track.add(0.3, 0, exited=True)
    assert (before, track.back_seconds, track.exit_seconds) == (None, 0.2, 0.3)


def test_memory_is_back_at_the_exit_whatever_its_cgroup_still_counts() -> None:
    track = Track(before=10 * MIB)
    track.add(0.1, 9 * MIB, exited=True)
    assert track.back_seconds == track.exit_seconds == 0.1


def test_what_happens_after_the_limit_does_not_count() -> None:
    track = Track(before=MIB)
    track.add(1.0, MIB, exited=False)
    track.add(2.5, 0, exited=True)
    cut = track.until(2.0)
    assert (cut.held, cut.back_seconds, cut.exit_seconds) == (MIB, None, None)


@pytest.fixture
def victim() -> Generator[Child, None, None]:
    child = Child("victim", 32 * MIB, "asleep")
    try:
        child.go()
        child.wait_ready("a victim")
        yield child
    finally:
        child.end()


def test_a_victim_holds_what_it_was_told_to(victim: Child) -> None:
    held = rss_anon(Path("/proc"), victim.pid)
    assert held is not None
    assert held >= 32 * MIB


def test_the_observer_sees_memory_go_and_the_exit(victim: Child) -> None:
    gauge = NodeGauge([victim.pid], lambda _: victim.has_exited())
    with Observer([victim.pidfd], gauge) as observer:
        observer.begin()
        victim.send(signal.SIGKILL)
        assert observer.wait(30)
    (track,) = observer.tracks
    assert track.before >= 32 * MIB
    assert track.held == 0
    assert track.back_seconds is not None
    assert track.exit_seconds is not None
    assert track.back_seconds <= track.exit_seconds


def test_the_observer_raises_what_the_gauge_raised(victim: Child, tmp_path: Path) -> None:
    charge = tmp_path / "charge"
    charge.write_text("1\n")
    with Observer([victim.pidfd], ChargeGauge([charge])) as observer:
        os.truncate(charge, 0)
        observer.begin()
        with pytest.raises(ValueError, match="invalid literal"):
            observer.wait(30)
