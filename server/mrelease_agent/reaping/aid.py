"""How the victims of one operation are given CPU time, so that they free themselves too: the ladder of boosting, on threads.

Moving a process between cgroups costs milliseconds and can block, so it never happens on the event loop; and an operation never waits
for it longer than BEFORE_KILL: a kill that comes late helps nobody.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

from mrelease_agent.boosting.booster import WORTH_MOVING, Booster
from mrelease_agent.boosting.evacuation import Evacuation
from mrelease_agent.boosting.lifting import Lift
from mrelease_agent.linux import procfs
from mrelease_agent.linux.process import ProcessRef
from mrelease_agent.linux.scheduling import Raised
from mrelease_agent.reaping.outcome import Boost
from mrelease_agent.reaping.reapers import Reapers
from mrelease_agent.reaping.tools import Tell

#: Seconds for which the kill waits for an evacuation.
BEFORE_KILL: Final = 0.25
#: Seconds after an operation for which its victims keep the CPU weight of the cgroups above them, where they have not exited.
LIFTED_AFTER: Final = 30.0
#: How many of a target's processes are helped, the biggest first: moving a thousand takes longer than releasing them.
_MOST_MOVED: Final = 64
_FIRST_PAUSE: Final = 0.02
_LAST_PAUSE: Final = 5.0


class Aid(Protocol):
    """What an operation, or a set of them, tells as it goes on."""

    async def before_kill(self, refs: Sequence[ProcessRef], held: int) -> None:
        """The signal comes next; ``held``: bytes that the death of all gives back."""
        ...

    def after_kill(self, refs: Sequence[ProcessRef]) -> None:
        """The signal is out."""
        ...

    def in_vain(self, ref: ProcessRef) -> None:
        """Reaping cannot help this one any more: only CPU time can."""
        ...

    def rung(self, pid: int) -> Boost:
        """How this one was helped."""
        ...

    def strays(self) -> list[int]:
        """Processes in the place where victims were moved to: children forked there are no members of their target any more."""
        ...

    def leave(self) -> None:
        """The operation is over; its victims may not be."""
        ...


class NoAid:
    """Aid that does nothing."""

    async def before_kill(self, refs: Sequence[ProcessRef], held: int) -> None:
        """See Aid."""

    def after_kill(self, refs: Sequence[ProcessRef]) -> None:
        """See Aid."""

    def in_vain(self, ref: ProcessRef) -> None:
        """See Aid."""

    def rung(self, pid: int) -> Boost:  # noqa: ARG002
        """See Aid."""
        return Boost.NONE

    def strays(self) -> list[int]:
        """See Aid."""
        return []

    def leave(self) -> None:
        """See Aid."""


class Aids:
    """Makes the aid of each operation, and looks after what outlives it. Belongs to the event loop."""

    def __init__(self, booster: Booster, side: Reapers, tell: Tell) -> None:
        self._booster = booster
        self.tell = tell
        self.side = side
        self._after: set[asyncio.Task[None]] = set()

    def make(self, boost: Boost) -> Aid:
        """Aid for one operation as its request has it."""
        return NoAid() if boost is Boost.NONE else Ladder(self, self._booster, boost)

    def look_after(self, evacuations: list[Evacuation], lifts: list[Lift], victims: dict[int, int]) -> None:
        """Put everything back when the victims, start times by pid, have exited."""
        task = asyncio.get_running_loop().create_task(self._put_back(evacuations, lifts, victims))
        self._after.add(task)
        task.add_done_callback(self._after.discard)

    async def close(self) -> None:
        """Restore all weights now; what still dies in a cgroup of ours is swept by the next start."""
        for task in self._after:
            task.cancel()
        await asyncio.gather(*self._after, return_exceptions=True)

    async def _put_back(self, evacuations: list[Evacuation], lifts: list[Lift], victims: dict[int, int]) -> None:
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + LIFTED_AFTER, _FIRST_PAUSE
        try:
            while evacuations or lifts:
                if lifts and (loop.time() > until or not any(procfs.start_time(pid) == start for pid, start in victims.items())):
                    await self._close(lifts)
                    lifts = []
                evacuations = [evacuation for evacuation in evacuations if not await self._closed(evacuation)]
                if evacuations or lifts:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LAST_PAUSE)
        finally:
            for lift in lifts:  # the agent stops: this may take a moment
                lift.close()
            for evacuation in evacuations:
                evacuation.close()

    async def _close(self, lifts: list[Lift]) -> None:
        def close() -> None:
            for lift in lifts:
                lift.close()

        await self.side.run(close, LIFTED_AFTER)

    async def _closed(self, evacuation: Evacuation) -> bool:
        try:
            return await self.side.run(evacuation.close, BEFORE_KILL)
        except TimeoutError:
            return False


class Ladder:
    """Aid by the first rung that works: see Aid, and docs/explanation/boost.md for why in this order."""

    def __init__(self, aids: Aids, booster: Booster, boost: Boost) -> None:
        self._aids = aids
        self._booster = booster
        self._boost = boost
        self._evacuations: list[Evacuation] = []
        self._lifts: list[Lift] = []
        #: What is on its way on a thread.
        self._tasks: set[asyncio.Task[None]] = set()
        self._rungs: dict[int, Boost] = {}
        self._victims: dict[int, int] = {}
        self._left = False
        #: Asked once: what runs now is what the victims have to wait for.
        self._is_needed: bool | None = None

    def _may(self, rung: Boost) -> bool:
        return self._boost in (Boost.UNSPECIFIED, rung) and self._booster.has(rung)

    def _needed(self, refs: Sequence[ProcessRef]) -> bool:
        if self._boost is Boost.UNSPECIFIED and self._is_needed is None and refs:
            self._is_needed = self._booster.needed(*refs[:_MOST_MOVED])
        return bool(refs) and (self._boost is not Boost.UNSPECIFIED or bool(self._is_needed))

    async def before_kill(self, refs: Sequence[ProcessRef], held: int) -> None:
        """See Aid."""
        if self._boost is Boost.UNSPECIFIED and held < WORTH_MOVING:
            return  # reaped sooner than moved
        if not (self._may(Boost.EVACUATION) and self._needed(refs)):
            return
        if self._boost is Boost.UNSPECIFIED and self._may(Boost.PRIORITY) and self._booster.realtime(refs[0]):
            return  # nothing is better, and it costs microseconds
        start = time.monotonic()
        worth = WORTH_MOVING if self._boost is Boost.UNSPECIFIED else 0
        booster = self._booster
        own = [ref.dup() for ref in refs[:_MOST_MOVED]]
        late = threading.Event()
        done: list[Evacuation] = []

        def evacuate() -> None:
            evacuation = booster.evacuate(own, BEFORE_KILL, worth)
            if evacuation is not None:
                done.append(evacuation)
                if late.is_set():
                    evacuation.close()

        try:
            await self._aids.side.run(evacuate, 2 * BEFORE_KILL, lambda: _close(own))
        except TimeoutError:
            late.set()
        self._took_in(done, Boost.EVACUATION)
        self._aids.tell("boost", time.monotonic() - start)

    def after_kill(self, refs: Sequence[ProcessRef]) -> None:
        """See Aid."""
        frozen = [ref for ref in refs if self._is_frozen(ref)]
        if frozen:
            self._begin(self.thaw_on_thread([ref.dup() for ref in frozen[:_MOST_MOVED]]))
        if not self._needed(refs):
            return
        left: list[ProcessRef] = []
        for ref in refs:
            self._victims[ref.pid] = ref.stat.start_time
            raised = self._booster.prioritise(ref) if self._may(Boost.PRIORITY) else Raised.NO
            if raised:
                self._rungs.setdefault(ref.pid, Boost.PRIORITY)
            if raised is not Raised.REALTIME and self._rungs.get(ref.pid) is not Boost.EVACUATION:
                left.append(ref)
        self._lift(left)

    def in_vain(self, ref: ProcessRef) -> None:
        """See Aid."""
        self._is_needed = None  # it waits longer than it should
        if self._rungs.get(ref.pid) not in (Boost.EVACUATION, Boost.LIFT) and self._needed([ref]):
            self._victims[ref.pid] = ref.stat.start_time
            self._lift([ref])

    def rung(self, pid: int) -> Boost:
        """See Aid."""
        return self._rungs.get(pid, Boost.UNSPECIFIED)

    def strays(self) -> list[int]:
        """See Aid."""
        return [pid for evacuation in self._evacuations for pid in evacuation.strays()]

    def leave(self) -> None:
        """See Aid."""
        self._left = True
        if not self._tasks:
            self._hand_over()

    def _is_frozen(self, ref: ProcessRef) -> bool:
        # v1 shows what it has frozen as state D.
        return ref.stat.state == "D" and self._may(Boost.EVACUATION) and self._booster.frozen(ref)

    def _took_in(self, evacuations: Sequence[Evacuation], rung: Boost) -> None:
        self._evacuations += evacuations
        self._rungs.update((pid, rung) for evacuation in evacuations for pid in evacuation.moved)

    def _lift(self, refs: Sequence[ProcessRef]) -> None:
        if refs and self._may(Boost.LIFT):
            self._begin(self.lift_on_thread([ref.dup() for ref in refs[:_MOST_MOVED]]))

    async def lift_on_thread(self, refs: list[ProcessRef]) -> None:
        """Lift the weights of the cgroups of ``refs``, which this closes, and of all above them."""
        booster = self._booster
        done: list[Lift] = []

        def lift() -> None:
            lifted = booster.lift(refs)
            if lifted is not None:
                done.append(lifted)

        try:
            await self._aids.side.run(lift, LIFTED_AFTER, lambda: _close(refs))
        finally:
            self._lifts += done
            self._rungs.update((ref.pid, Boost.LIFT) for ref in refs if done)

    async def thaw_on_thread(self, refs: list[ProcessRef]) -> None:
        """Move dying processes, which this closes, out of frozen cgroups of v1."""
        booster = self._booster
        done: list[Evacuation] = []

        def thaw() -> None:
            evacuation = booster.thaw(refs, BEFORE_KILL)
            if evacuation is not None:
                done.append(evacuation)

        try:
            await self._aids.side.run(thaw, LIFTED_AFTER, lambda: _close(refs))
        finally:
            self._took_in(done, Boost.EVACUATION)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a boost that does not come off is none
        if self._left and not self._tasks:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._evacuations or self._lifts:
            self._aids.look_after(self._evacuations, self._lifts, self._victims)
            self._evacuations, self._lifts = [], []


def _close(refs: Sequence[ProcessRef]) -> None:
    for ref in refs:
        ref.close()
