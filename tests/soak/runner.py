"""The run: phases, each idle or busy and with its own number of victims at once, and a look at the agent between them."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from bench.agents import BenchAgent
from bench.programs import running
from mrelease import Client
from soak.health import Sample, sample
from soak.kinds import Kind
from soak.lab_kinds import KINDS
from soak.options import Options
from soak.pool import Pool
from soak.programs import Programs
from soak.tally import Tally
from soak.watching import Kill

_HOGS_PER_CPU = 1
_TICK = 0.05
#: Seconds after the last kill of a phase until the agent is looked at: its threads have finished.
_QUIET = 0.5

Say = Callable[[str], None]


class Runner:
    """One run."""

    def __init__(self, options: Options, agent: BenchAgent, programs: Programs, pool: Pool, log: IO[str] | None, say: Say) -> None:
        self.tally = Tally()
        self.samples: list[Sample] = []
        self._options = options
        self._agent = agent
        self._programs = programs
        self._pool = pool
        self._log = log
        self._say = say
        self._rng = random.Random(options.seed)
        self._begun = time.monotonic()
        self._kinds = [KINDS[name] for name in options.only or KINDS]

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begun

    @property
    def is_over(self) -> bool:
        """Whether there were as many kills, or as much time, as was asked for."""
        options = self._options
        return (options.kills is not None and self.tally.kills >= options.kills) or (
            options.seconds is not None and self.seconds >= options.seconds
        )

    def run(self, between: Callable[[], None]) -> None:
        """Kill until it is over; ``between`` is called after each phase."""
        with Client(self._agent.address) as client:
            busy = self._rng.random() < 0.5
            while not self.is_over:
                slots = self._rng.randrange(self._options.slots) + 1
                with _hogs(self._programs, self._options.hog_nice, busy=busy):
                    self._phase(slots, busy=busy)
                time.sleep(_QUIET)
                self.samples.append(sample(client, self._agent.pid, self._begun, self.tally.kills, busy=busy, slots=slots))
                self._tell(slots, busy=busy)
                between()
                busy = not busy

    def _phase(self, slots: int, *, busy: bool) -> None:
        end = time.monotonic() + self._options.phase
        next_one = time.monotonic()
        while (time.monotonic() < end and not self.is_over and not self._enough()) or self._pool.busy:
            now = time.monotonic()
            slot = self._pool.free(slots)
            if now < end and slot is not None and now >= next_one and not self.is_over and not self._enough():
                self._give(slot, busy=busy)
                next_one = max(next_one + 1 / self._options.rate, now)
                continue
            wait = min(_TICK, max(0.001, next_one - now)) if slot is not None else _TICK
            for kill in self._pool.heard(wait):
                self._note(kill, busy=busy)

    def _give(self, slot: int, *, busy: bool) -> None:
        kind, seed = self._draw(), self._rng.randrange(1 << 31)
        try:
            self._pool.give(slot, kind, seed)
        except RuntimeError as error:
            self._note(Kill(kind.name, seed, error=str(error)), busy=busy)

    def _enough(self) -> bool:
        """Whether those under way are all that are missing. Who could not be made is made up for."""
        return self._options.kills is not None and self.tally.kills + self._pool.busy >= self._options.kills

    def _draw(self) -> Kind:
        gone = {name for name, kind in self.tally.kinds.items() if kind.unavailable and not kind.kills}
        kinds = [kind for kind in self._kinds if not (kind.alone and self._pool.one_is_alone) and kind.name not in gone]
        if not kinds:
            raise RuntimeError("no such victim can be made here: " + "; ".join(kind.unavailable for kind in self.tally.kinds.values()))
        return self._rng.choices(kinds, [kind.weight for kind in kinds])[0]

    def _note(self, kill: Kill, *, busy: bool) -> None:
        self.tally.add(kill, self.seconds, busy=busy)
        if self._log is not None:
            self._log.write(json.dumps({**asdict(kill), "busy": busy}) + "\n")
            self._log.flush()
        for fault in kill.faults:
            self._say(f"FAULT {kill.kind} (seed {kill.seed}): {fault['what']}: {fault['text']}")
        if kill.error:
            self._say(f"not compared: {kill.kind} (seed {kill.seed}): {kill.error}")

    def _tell(self, slots: int, *, busy: bool) -> None:
        last = self.samples[-1]
        state = "busy" if busy else "idle"
        self._say(
            f"{self.seconds:6.0f} s  {self.tally.kills:6d} kills  {sum(self.tally.faults.values())} wrong  {slots} at once, {state}  "
            f"agent: {last.rss / (1 << 20):.1f} MiB, {last.fds} fds, {last.threads} threads, GetNode {last.ping / 1000:.0f} us  "
            f"load {last.load}"
        )


@contextmanager
def _hogs(programs: Programs, nice: int, *, busy: bool) -> Generator[None]:
    """Some for each CPU, where it is to be busy."""
    with ExitStack() as stack:
        for cpu in sorted(os.sched_getaffinity(0)) * (_HOGS_PER_CPU if busy else 0):
            hog = stack.enter_context(running([programs.victim, "-p", os.getpid(), "-S", "-c", cpu]))
            hog.hear()
            os.setpriority(os.PRIO_PROCESS, hog.pid, nice)
        yield


def opened(path: Path | None, stack: ExitStack) -> IO[str] | None:
    """The file of ``--log``."""
    return None if path is None else stack.enter_context(path.open("w", encoding="utf-8"))
