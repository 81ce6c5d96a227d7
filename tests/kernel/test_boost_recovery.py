"""The agent dies while it boosts: what the next one finds, and puts right."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mrelease_agent.boosting.booster import Booster
from mrelease_agent.boosting.journal import NAME, Entry, Journal
from mrelease_agent.boosting.recovery import Recovered
from mrelease_agent.linux.process import ProcessRef
from support import lab
from support.boosted import booster, cpu_tree, is_in, leaf_of, leaves_for, path_of, ref_to
from support.lab.starvation import Pod, pod

SMALL = 2 * lab.MIB
PATIENT = 60.0
#: More steps than an operation has.
MANY = 400

Crash = Callable[[str, int], bool]


@pytest.fixture
def starving() -> Generator[Pod, None, None]:
    lab.need_root("moving processes and writing CPU weights")
    with pod() as made:
        yield made


@pytest.fixture
def victims(starving: Pod) -> Generator[list[lab.Victim], None, None]:
    """One in the container, one in the container of another pod."""
    with lab.live(SMALL, within=[starving.container]) as one, lab.live(SMALL, within=[starving.sibling]) as other:
        yield [one, other]


@contextlib.contextmanager
def crasher(state: Path, *pids: int) -> Generator[Crash, None, None]:
    """Boosts processes and is killed before a step; false where there are not so many."""
    command = [sys.executable, "-m", "support.boost_crasher", str(state), *map(str, pids)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment, start_new_session=True
    ) as process:
        assert process.stdin
        assert process.stdout
        orders, answers = process.stdin, process.stdout

        def crash_at(what: str, step: int) -> bool:
            orders.write(f"{what} {step}\n")
            answer = answers.readline().strip()
            assert answer in ("killed", "done")
            return answer == "killed"

        yield crash_at
        orders.close()


@pytest.fixture
def crash(victims: list[lab.Victim], tmp_path: Path) -> Generator[Crash, None, None]:
    with crasher(tmp_path, *(victim.pid for victim in victims)) as crash_at:
        yield crash_at


def recover(state: Path) -> Recovered:
    with booster(state) as made:
        recovered = made.recover()
        assert not made.recover()  # nothing is left
    return recovered


def is_as_before(starving: Pod, victims: list[lab.Victim], weights: list[str]) -> bool:
    where = cpu_tree()
    return (
        is_in(victims[0].pid, starving.container, where)
        and is_in(victims[1].pid, starving.sibling, where)
        and starving.weights() == weights
        and not leaves_for(starving.container, where)
        and not leaves_for(starving.sibling, where)
    )


# At each step


@pytest.mark.parametrize("what", ["evacuate", "lift"])
def test_killed_at_any_step_the_next_start_puts_everything_back(
    starving: Pod, victims: list[lab.Victim], crash: Crash, tmp_path: Path, what: str
) -> None:
    weights = [*starving.weights(), starving.sibling.read(starving.file)]
    found: list[Recovered] = []
    for step in range(MANY):
        if not crash(what, step):
            break
        found.append(recover(tmp_path))
        assert is_as_before(starving, victims, weights[:3]), (step, found[-1])
        assert starving.sibling.read(starving.file) == weights[3], step
    else:
        pytest.fail("it never ends")
    assert is_as_before(starving, victims, weights[:3])
    if what == "evacuate":  # both were away at some step, and one at another
        assert {each.processes for each in found} == {0, 1, 2}
    else:
        assert max(each.weights for each in found) >= 4


def test_what_is_done_says_one_line(starving: Pod, victims: list[lab.Victim], crash: Crash, tmp_path: Path) -> None:
    for step in range(MANY):
        assert crash("evacuate", step)
        if leaf_of(victims[0].pid, cpu_tree()):
            break
        recover(tmp_path)
    text = str(recover(tmp_path))
    assert "processes put back: 1" in text
    assert "\n" not in text


# What is somebody else's


def test_leaf_of_a_living_agent_is_not_touched(starving: Pod, victims: list[lab.Victim], tmp_path: Path) -> None:
    with booster(None) as living, ref_to(victims[0]) as ref:
        evacuation = living.evacuate([ref], PATIENT, 0)
        assert evacuation is not None
        with booster(tmp_path) as starting:
            starting.recover()
        assert leaf_of(victims[0].pid, cpu_tree()) is not None
        assert evacuation.close()


def test_weight_that_somebody_else_has_written_is_left(starving: Pod, victims: list[lab.Victim], crash: Crash, tmp_path: Path) -> None:
    _until_lifted(starving, crash, tmp_path)
    starving.best_effort.write(starving.file, "77")
    recovered = recover(tmp_path)
    assert recovered.changed == 1
    assert starving.best_effort.read(starving.file) == "77"


def test_cgroup_of_the_same_name_that_is_another_one_is_left(starving: Pod, victims: list[lab.Victim], tmp_path: Path) -> None:
    path = path_of(victims[0].pid, cpu_tree())
    inode = starving.container.path.stat().st_ino
    before = starving.container.read(starving.file)
    starving.container.write(starving.file, starving.highest)
    version = starving.container.version
    journal = Journal(tmp_path)
    journal.begin(Entry(version, path, inode + 1, "cpu.weight" if version == 2 else "cpu.shares", "7", starving.highest))
    journal.close()
    assert recover(tmp_path).weights == 0
    assert starving.container.read(starving.file) == starving.highest
    starving.container.write(starving.file, before)


def test_dying_evacuee_is_left_to_die_and_its_leaf_is_removed_later(starving: Pod, tmp_path: Path) -> None:
    where = cpu_tree()
    with (
        lab.live(SMALL, within=[starving.container]) as victim,
        lab.hold_at_exit(victim) as hold,
        lab.live(SMALL, within=[starving.sibling]) as other,
        ref_to(other) as other_ref,
        contextlib.ExitStack() as stack,
    ):
        leaf = _orphan(victim.pid, tmp_path)
        victim.kill()
        hold.wait_held()
        made = stack.enter_context(booster(tmp_path))
        recovered = made.recover()
        assert (recovered.busy_leaves, recovered.processes) == (1, 0)
        assert leaf.exists()
        assert leaf_of(victim.pid, where) == leaf
        hold.let_go()
        assert victim.exited()
        # Whatever this agent evacuates next sweeps it.
        lab.until(lambda: _evacuated_and_back(made, other_ref) and not leaf.exists(), "the leaf is removed")


# A journal that cannot be believed


def test_damaged_lines_are_skipped_and_said_and_the_others_count(
    starving: Pod, victims: list[lab.Victim], crash: Crash, tmp_path: Path
) -> None:
    weights = starving.weights()
    _until_lifted(starving, crash, tmp_path)
    journal = tmp_path / NAME
    journal.write_bytes(b"\xff\xfe garbage\n{}\n" + journal.read_bytes() + b'{"boot":"torn')
    recovered = recover(tmp_path)
    assert recovered.corrupt_lines == 3
    assert recovered.weights >= 1
    assert starving.weights() == weights
    assert not journal.stat().st_size


def test_journal_of_another_boot_is_dropped(starving: Pod, victims: list[lab.Victim], crash: Crash, tmp_path: Path) -> None:
    weights = starving.weights()
    _until_lifted(starving, crash, tmp_path)
    journal = tmp_path / NAME
    own = journal.read_bytes()
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    journal.write_bytes(own.replace(boot, b"00000000-0000-0000-0000-000000000000"))
    recovered = recover(tmp_path)
    assert recovered.other_boot
    assert recovered.weights == 0
    assert starving.weights() != weights
    journal.write_bytes(own)
    recover(tmp_path)
    assert starving.weights() == weights


@pytest.mark.parametrize("path", ["/../../etc", "relative", "/no/such/cgroup", "/\0", "/" + "x" * 300])
def test_journal_can_lead_nowhere_but_to_cgroups(tmp_path: Path, path: str) -> None:
    journal = Journal(tmp_path)
    journal.begin(Entry(cpu_tree().version, path, 1, "cpu.shares", "2", "262144"))
    journal.close()
    assert recover(tmp_path) == Recovered()


def _until_lifted(starving: Pod, crash: Crash, state: Path) -> None:
    for step in range(MANY):
        assert crash("lift", step)
        if starving.best_effort.read(starving.file) == starving.highest:
            return
        recover(state)


def _orphan(pid: int, state: Path) -> Path:
    """Leave a process in a leaf whose agent is dead; the leaf."""
    with crasher(state, pid) as crash_at:
        for step in range(MANY):
            assert crash_at("evacuate", step)
            leaf = leaf_of(pid, cpu_tree())
            if leaf is not None:
                return leaf
            recover(state)
    raise AssertionError


def _evacuated_and_back(made: Booster, ref: ProcessRef) -> bool:
    evacuation = made.evacuate([ref], PATIENT, 0)
    return evacuation is not None and evacuation.close()
