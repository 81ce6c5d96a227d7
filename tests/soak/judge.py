"""Whether the agent told the truth: its answer on one kill against what the observer saw of it.

Nothing is allowed for time: a sample that began after the answer had come, and still shows the memory, makes the answer a lie. What is
allowed for bytes is ``Allowance``: what the kernel's own counters may be off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from soak.answer import BACK, Answer, ProcessAnswer
from soak.scene import PAGE
from soak.track import Samples, Track, after, before, first_below

CPUS = os.cpu_count() or 1
#: Bytes by which the charge of a cgroup may exceed what its processes hold: each CPU keeps 64 pages in stock (MEMCG_CHARGE_BATCH) and up
#: to 31 pages in each of its lists of pages that are on their way to the LRU lists, here those of new and of mlocked ones (PAGEVEC).
CHARGE_SLACK = (64 + 2 * 31) * PAGE * CPUS
#: What a process is charged with beside its memory until it is gone: kernel stack, page tables, the kernel's records of it.
KERNEL = 256 << 10
#: Page tables: one entry of 8 bytes for each page, and the upper levels.
_TABLES = 8 / PAGE
#: When the agent says that memory is back since some moment, that moment is known so well: the clocks are compared, and rounded.
CLOCK_ERROR = 100_000
#: How long before the answer memory has to be back for "held" to be wrong: the agent's own pause between looks, and its diagnosis.
_STALE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What of the scene the comparison needs; see ``scene.Scene``. ``base``: charge before the victim came, ``left``: members alive after
    the answer.
    """

    inside: int
    racing: bool = False
    killed: bool = False
    whole: bool = False
    forking: bool = False
    base: int = 0
    shared: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """A difference between the answer and what was seen. ``what`` is one of WHATS."""

    what: str
    text: str


EARLY, BYTES, HELD, ALIVE, EXIT, ANSWER = "early", "bytes", "held", "alive", "exit", "answer"
WHATS = {
    EARLY: "says that memory is back before it is",
    BYTES: "released bytes are not what came back",
    HELD: "memory that is held without a cause and a remedy, or not held any more",
    ALIVE: "a member of a target that is released is alive",
    EXIT: "an exit that has not happened",
    ANSWER: "no answer where there should be one",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the comparison rests on, for the statistics. Times in nanoseconds: when the observer first saw the memory gone; 0 for never."""

    before: int
    back_at: int
    fell: int | None


def judge(track: Track, answer: Answer, facts: Facts) -> tuple[list[Fault], Seen]:
    """Compare; no fault where everything agrees."""
    anon = before(track.anons, answer.called)
    held_before = (anon.value if anon else 0) + track.swap
    tolerance = max(held_before // 100, PAGE * max(1, track.threads))
    slack = facts.inside // 100 + CHARGE_SLACK
    charge_before = before(track.charges, answer.called)
    seen = Seen(held_before, _back_at(track, answer, facts, tolerance, slack), _fell(track, charge_before, answer.answered))
    if answer.error:
        expected = facts.racing and answer.error in {"TargetNotFound", "ProcessNotFound", "NotFound"}
        return ([] if expected else [Fault(ANSWER, answer.error)]), seen
    faults = [*_unexplained(answer)]
    if answer.is_back:
        faults += _early(track, facts, answer.answered, "when it answered", tolerance, slack)
        if not facts.whole and len(answer.processes) == 1 and answer.processes[0].back_at:
            claimed = answer.processes[0].back_at + CLOCK_ERROR
            if claimed < answer.answered:
                faults += _early(track, facts, claimed, "when it says that it was back", tolerance, slack)
        if facts.left:
            faults.append(Fault(ALIVE, f"{facts.left} of its processes live"))
    elif facts.inside and seen.back_at and seen.back_at < answer.answered - _STALE and not facts.racing:
        faults.append(Fault(HELD, f"says {answer.verdict} {_ms(answer.answered - seen.back_at)} after its memory was back"))
    faults += _wrong_bytes(track, answer, facts, held_before, tolerance, slack)
    faults += _not_exited(track, answer)
    if not facts.racing and not answer.processes:
        faults.append(Fault(ANSWER, f"{answer.verdict} and no process"))
    return faults, seen


def _charge_gone(facts: Facts, charge_before: Samples, now: int, slack: int) -> bool:
    """Whether the charge fell by the private memory; of a whole cgroup, whether hardly anything is left."""
    if facts.forking:
        return True  # what they were charged with before is not what they had in the end: see _remains
    if facts.killed:
        return now - facts.base <= facts.shared + slack + KERNEL + int(facts.inside * _TABLES)
    return charge_before.value - now >= facts.inside - slack


def _early(track: Track, facts: Facts, since: int, when: str, tolerance: int, slack: int) -> list[Fault]:
    """Whether memory was still there after ``since``, by statm or by the charge: RSS 0 alone is no proof."""
    faults: list[Fault] = []
    anon = after(track.anons, since)
    if anon is not None and anon.value > tolerance * max(1, len(track.exits)):
        faults.append(Fault(EARLY, f"{anon.value} bytes by statm {when}, {_ms(_at(anon, since) - since)} after it"))
    charge, charge_before = after(track.charges, since), before(track.charges, track.begun)
    if charge is not None and charge_before is not None and not _charge_gone(facts, charge_before, charge.value, slack):
        text = f"the charge was {charge_before.value} before and {charge.value} {when}, of {facts.inside} bytes in it"
        faults.append(Fault(EARLY, f"{text}, {_ms(_at(charge, since) - since)} after it"))
    return faults


def _wrong_bytes(track: Track, answer: Answer, facts: Facts, held_before: int, tolerance: int, slack: int) -> list[Fault]:
    charge_before, charge = before(track.charges, track.begun), after(track.charges, answer.answered)
    fell = charge_before.value - charge.value if charge is not None and charge_before is not None else None
    kernel = KERNEL * max(len(answer.processes), 1) + int(facts.inside * _TABLES)
    # More than the charge fell by did not come back. What came from outside of the cgroup is not in it: a lab victim's interpreter.
    sure = min(answer.released, facts.inside)
    if fell is not None and not facts.forking and not facts.killed and sure > fell + slack:
        return [Fault(BYTES, f"{answer.released} released, and the charge fell by {fell}")]
    if facts.whole:
        if fell is not None and not facts.forking and answer.is_back and answer.released < fell - facts.shared - slack - kernel:
            return [Fault(BYTES, f"{answer.released} released, and the charge fell by {fell}")]
        return []
    anon = after(track.anons, answer.answered)
    if anon is None:
        return []
    back = held_before - anon.value
    # What is charged to another cgroup may be a relative's, too: the agent does not count it, and says how much that is.
    inherited = sum(each.inherited for each in answer.processes)
    if inherited and charge_before is not None and inherited > max(0, held_before - facts.inside) + slack:
        return [Fault(BYTES, f"{inherited} inherited, of {held_before} bytes with {facts.inside} in its cgroup")]
    if not answer.is_back:
        # Of what is held, no statm says that it is there when its last thread has given up the address space.
        wrong = answer.released > back + tolerance
    elif facts.racing:
        wrong = answer.released > held_before + tolerance
    else:
        wrong = abs(answer.released + inherited - back) > tolerance
    return [Fault(BYTES, f"{answer.released} released, {held_before} before, {anon.value} after")] if wrong else []


def _unexplained(answer: Answer) -> list[Fault]:
    if answer.verdict == "UNKNOWN" or not answer.verdict:
        return [Fault(ANSWER, f"verdict {answer.verdict or 'none'}")]
    bare = [each for each in answer.processes if each.outcome not in BACK and not _explained(each)]
    return [Fault(HELD, f"{each.pid} is {each.outcome}: {each.held_cause}, cause {each.cause!r}, remedy {each.remedy!r}") for each in bare]


def _explained(process: ProcessAnswer) -> bool:
    return process.held_cause != "UNSPECIFIED" and bool(process.cause) and bool(process.remedy)


def _not_exited(track: Track, answer: Answer) -> list[Fault]:
    """Who is said to have exited has a readable pidfd, no later than the answer and than the moment that is said."""
    exits = {each.pid: each for each in track.exits}
    faults: list[Fault] = []
    for process in answer.processes:
        seen = exits.get(process.pid)
        if seen is None or not (process.exit_at or process.proof == "EXIT"):
            continue
        claimed = min(answer.answered, process.exit_at + CLOCK_ERROR) if process.exit_at else answer.answered
        if seen.last_not >= claimed:
            faults.append(Fault(EXIT, f"{process.pid} had not exited {_ms(seen.last_not - claimed)} after it was said to have"))
    return faults


def _back_at(track: Track, answer: Answer, facts: Facts, tolerance: int, slack: int) -> int:
    """When the observer first saw that the memory was gone, by everything that it looks at; 0 for never."""
    start = track.begun
    by_statm = first_below(track.anons, start, tolerance * max(1, len(track.exits))) if track.anons else start
    charge_before = before(track.charges, start)
    by_charge = start
    if charge_before is not None and track.charges:
        by_charge = next(
            (
                max(run.first_begin, start)
                for run in track.charges
                if run.last_begin >= start and _charge_gone(facts, charge_before, run.value, slack)
            ),
            0,
        )
    elif not all(each.readable for each in track.exits):
        by_charge = 0  # nothing but the exit tells
    else:
        by_charge = max((each.readable for each in track.exits), default=start)
    return max(by_statm, by_charge) if by_statm and by_charge else 0


def _fell(track: Track, charge_before: Samples | None, since: int) -> int | None:
    charge = after(track.charges, since)
    return None if charge is None or charge_before is None else charge_before.value - charge.value


def _at(samples: Samples, since: int) -> int:
    """When the first of these samples began that is not older than ``since``, as far as is known."""
    return samples.first_begin if samples.first_begin >= since else since


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f} ms"
