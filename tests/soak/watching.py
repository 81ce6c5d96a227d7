"""One kill, watched from before it until after its answer, and compared."""

from __future__ import annotations

import random
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from mrelease import Boost, Client, MreleaseError, Target, Wait
from soak.answer import Answer, Clocks, answer_of
from soak.judge import Facts, Fault, Seen, judge
from soak.kinds import Kind
from soak.observer import Observer
from soak.scene import HOPELESS, Scene, Slot
from soak.track import Track, before
from support import lab

#: Seconds for which memory is watched after an answer that says it is back: it must not come again.
_AFTER = 0.01
_BOOSTS = (Boost.UNSPECIFIED, Boost.UNSPECIFIED, Boost.NONE, Boost.PRIORITY, Boost.EVACUATION, Boost.LIFT)


@dataclass(slots=True)
class Kill:
    """What is kept of one kill. Times are nanoseconds of CLOCK_MONOTONIC, sizes bytes; ``error`` is the soak's own, not the agent's."""

    kind: str
    seed: int
    called: int = 0
    took: int = 0
    verdict: str = ""
    causes: list[str] = field(default_factory=list[str])
    proofs: list[str] = field(default_factory=list[str])
    processes: int = 0
    before: int = 0
    released: int = 0
    back_after: int = 0
    samples: int = 0
    longest_gap: int = 0
    faults: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    unavailable: str = ""


class Killer(Protocol):
    """Who kills and answers: the agent; a test has one that lies."""

    def __call__(self, scene: Scene, rng: random.Random) -> Answer: ...


class ByAgent:
    """The agent through the SDK, as a caller uses it, with options drawn by lot."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clocks = Clocks()

    def __call__(self, scene: Scene, rng: random.Random) -> Answer:
        """Kill and release; release alone now and then where somebody has killed already."""
        wait = rng.choice((Wait.RELEASED, Wait.RELEASED, Wait.EXITED))
        delay, boost = rng.choice((None, None, 0.0, 0.02)), rng.choice(_BOOSTS)
        release = scene.killed and rng.random() < 0.5
        if release and boost is Boost.EVACUATION:  # that is done before the kill
            boost = Boost.LIFT
        target: Target = scene.target
        timeout = HOPELESS if wait is Wait.EXITED and scene.stays else scene.timeout
        called = time.monotonic_ns()
        try:
            if release:
                result = self._client.release(target, wait=wait, timeout=timeout, boost=boost, reason="soak")
            else:
                result = self._client.kill_and_release(target, wait=wait, timeout=timeout, reap_delay=delay, boost=boost, reason="soak")
        except MreleaseError as error:
            return Answer(called, time.monotonic_ns(), error=type(error).__name__)
        answered = time.monotonic_ns()
        return answer_of(result, called, answered, self._clocks.offset())


def watch(kind: Kind, seed: int, slot: Slot, observer: Observer, killer: Killer) -> Kill:
    """Make a victim of this kind by this seed, have it killed, and compare. Raises what is the observer's end alone."""
    rng = random.Random(seed)
    kill = Kill(kind.name, seed)
    try:
        base = slot.charged_without_victims()
        with ExitStack() as stack:
            scene = stack.enter_context(kind.make(slot, rng))
            _watched(kill, scene, base, observer, killer, rng)
    except lab.Unavailable as why:
        kill.unavailable = str(why)
    except (OSError, RuntimeError, TimeoutError, AssertionError) as error:
        kill.error = f"{type(error).__name__}: {error}"
        kill.details["trace"] = traceback.format_exc(limit=4)
    return kill


def _watched(kill: Kill, scene: Scene, base: int, observer: Observer, killer: Killer, rng: random.Random) -> None:
    observer.watch(scene.pids, scene.charge)
    try:
        observer.begin()
        scene.cue()
        answer = killer(scene, rng)
        observer.answer()
        left = _living(scene) if answer.is_back else 0
        time.sleep(_AFTER)
    finally:
        track = observer.end()
    facts = Facts(
        inside=scene.inside,
        racing=scene.racing,
        killed=scene.killed,
        whole=scene.whole is not None,
        forking=scene.forking,
        base=base,
        shared=track.shared,
        left=left,
    )
    faults, seen = judge(track, answer, facts)
    _note(kill, answer, track, faults, seen)
    if faults:
        kill.details |= {"answer": asdict(answer), "facts": asdict(facts), "track": asdict(track)}


def _living(scene: Scene) -> int:
    """Members of a whole target that are not dying, by the state of the kernel: one of them sleeps or runs without SIGKILL."""
    if scene.whole is None:
        return 0
    pids = [int(pid) for pid in scene.whole.read("cgroup.procs").split()]
    fields = [lab.status_fields(pid) for pid in pids]
    return sum(1 for each in fields if each and each["State"][:1] not in "ZX" and not _dying(each))


def _dying(status: dict[str, str]) -> bool:
    kill = 1 << 8
    return any(int(status.get(name, "0"), 16) & kill for name in ("SigPnd", "ShdPnd")) or "VmSize" not in status


def _note(kill: Kill, answer: Answer, track: Track, faults: list[Fault], seen: Seen) -> None:
    anon = before(track.anons, answer.called)
    kill.called, kill.took = answer.called, answer.answered - answer.called
    kill.verdict = answer.verdict or answer.error
    kill.causes = sorted({each.held_cause for each in answer.processes} - {"UNSPECIFIED"})
    kill.proofs = sorted({each.proof for each in answer.processes})
    kill.processes = len(answer.processes)
    kill.before, kill.released = (anon.value if anon else 0) + track.swap, answer.released
    kill.back_after = seen.back_at - answer.called if seen.back_at else 0
    kill.samples, kill.longest_gap = track.samples, track.longest_gap
    kill.faults = [asdict(fault) for fault in faults]
