"""Keep so much memory of a node available: before the kernel has to, kill what the policy gives up first, and never two if one is enough.

    python examples/memory_floor.py --floor 2Gi --dry-run

Runs on the node, or anywhere with MRELEASE_AGENT and a certificate (docs/remote.md). The rule in the agent's policy that lets it in needs
WatchMemory, ListProcesses and Reclaim; what its `targets` leave out cannot die, whatever is written here.

The agent's PSI trigger wakes it: the kernel says within the window that tasks wait for memory, and no poll is that fast. Pressure alone is
no reason, as a container at its own limit makes it too: what counts is MemAvailable. A look every few seconds beside it finds memory that
goes without any pressure, as long as there is page cache to drop.

Under the floor it asks for floor *and* margin (hysteresis): a node that is kept exactly at its floor would have it kill at each breath.
Who dies: BestEffort before Burstable, and of these the biggest pod: fewest deaths for the bytes. Or, with --from, what a file lists, in its
order. `Reclaim` kills the next one only when the last one's memory is proven back, or diagnosed as held, and MemAvailable is still short;
it knows that MemAvailable lags behind. After a reclaim that did not get there it waits: what is held may still come back.

kubelet starts again what was killed here, after a pause that it doubles: examples/preemption.py shows how a pod is deleted with it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from mrelease import (
    Client,
    MreleaseError,
    Pod,
    PressureTrigger,
    Process,
    QosClass,
    ReclaimedCandidate,
    ReclaimStarted,
    ReclaimSummary,
    Target,
)

MIB = 1 << 20
log = logging.getLogger("memory_floor")


def by_policy(node: Client, classes: list[QosClass]) -> dict[Target, str]:
    """Pods of these classes, in their order, of each the biggest first, with what to call them."""
    held: dict[str, int] = {}
    seen: dict[str, QosClass] = {}
    named: dict[str, str] = {}
    for process in node.list_processes(limit=None):  # the biggest first
        if process.pod_uid and process.qos in classes and not process.protection:
            held[process.pod_uid] = held.get(process.pod_uid, 0) + process.reclaimable_bytes
            seen[process.pod_uid] = process.qos
            named.setdefault(process.pod_uid, process.command)
    order = sorted(held, key=lambda uid: (classes.index(seen[uid]), -held[uid]))
    return {Pod(uid): f"pod {uid} ({seen[uid]}, {named[uid]!r}, {held[uid] // MIB} MiB)" for uid in order}


def from_file(path: Path) -> dict[Target, str]:
    """What a file lists, one a line, first to die first: `pod:UID`, or a pid with its inode as `mrelease ps` shows it, `4711:20417`."""
    found: dict[Target, str] = {}
    for line in (line.strip() for line in path.read_text().splitlines()):
        kind, _, rest = line.partition(":")
        if kind.isdigit() and rest.isdigit():  # never a pid alone: by now it may be another process
            found[Process(int(kind), pidfd_inode=int(rest))] = line
        elif kind == "pod" and rest:
            found[Pod(rest)] = line
        elif line and not line.startswith("#"):
            raise ValueError(f"{path}: {line!r} is neither pod:UID nor PID:INODE")
    return found


def make_room(node: Client, candidates: dict[Target, str], goal: int, options: argparse.Namespace) -> bool:
    """Reclaim until ``goal`` bytes are available; whether they are."""
    names = list(candidates.values())[:1000]  # as many as an agent takes
    for event in node.reclaim(
        list(candidates)[:1000],
        available_bytes=goal,
        grace_period=options.grace,
        reason=f"MemAvailable below {options.floor // MIB} MiB",
        validate_only=options.dry_run,
    ):
        match event:
            case ReclaimedCandidate(index, None, passed_over):
                log.info("passed over %s: %s", names[index], passed_over)
            case ReclaimedCandidate(index, result) if result is not None:
                did = "would kill" if options.dry_run else f"{result.verdict}, {result.released_bytes // MIB} MiB back:"
                log.info("%s %s", did, names[index])
            case ReclaimSummary():
                log.info("%s", event)
                return event.goal_met
            case ReclaimStarted(index, missing):
                log.info("%d MiB are missing: it is the turn of %s", missing // MIB, names[index])
            case _:
                pass
    return False


def keep(node: Client, options: argparse.Namespace) -> None:
    """Watch until memory is short, and act once: what the stream holds by then is from before."""
    trigger = PressureTrigger(stall=options.stall, window=2)
    for number, sample in enumerate(node.watch_memory(trigger=trigger, interval=options.every)):
        available = sample.memory.available_bytes
        if number == 0:
            log.info("watches: %d MiB available", available // MIB)
        if available < options.floor:
            woken = "PSI trigger" if sample.triggered else "look"
            log.warning("%d MiB available, the floor is %d MiB (%s)", available // MIB, options.floor // MIB, woken)
            break
    else:
        return
    candidates = from_file(options.file) if options.file else by_policy(node, options.classes)
    if not candidates:
        log.warning("nobody may die: the floor cannot be kept")
    if not candidates or not make_room(node, candidates, options.floor + options.margin, options) or options.dry_run:
        time.sleep(options.pause)


def stop(*_: object) -> None:
    """SIGTERM: the stream of a reclaim under way is closed, and no further candidate is killed."""
    log.info("ends")
    sys.exit(0)


def size(text: str) -> int:
    """Bytes of 512Mi or 2Gi."""
    return int(float(text[:-2]) * {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[text[-2:]])


def main() -> None:
    """Keep the floor until SIGTERM, through restarts of the agent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--floor", type=size, required=True, help="how much is to be available, as 2Gi")
    parser.add_argument("--margin", type=size, default=256 * MIB, help="so much above the floor it goes on to (256Mi)")
    parser.add_argument("--burstable", action="store_true", help="Burstable pods may die too, after the BestEffort ones")
    parser.add_argument("--from", dest="file", type=Path, help="a file of candidates instead, read anew each time")
    parser.add_argument("--stall", type=float, default=0.1, help="wakes when tasks waited for memory for so many of 2 seconds (0.1)")
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks without pressure (5)")
    parser.add_argument("--pause", type=float, default=10, help="seconds after a reclaim that did not reach its goal (10)")
    parser.add_argument("--grace", type=float, default=0, help="seconds that a victim has to end by itself (0)")
    parser.add_argument("--dry-run", action="store_true", help="say who would die")
    options = parser.parse_args()
    options.classes = [QosClass.BEST_EFFORT, *([QosClass.BURSTABLE] if options.burstable else [])]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, stop)
    with Client() as node:
        log.info("keeps %d MiB available on the node of %s", options.floor // MIB, node.address)
        while True:
            try:
                keep(node, options)
            except (MreleaseError, OSError, ValueError) as error:
                log.warning("%s; tries again", error)
            time.sleep(1)


if __name__ == "__main__":
    main()
