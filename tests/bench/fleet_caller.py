"""The caller of ``bench.fleet``, in a process of its own, so that its memory is its own.

    python fleet_caller.py '{"agents": {"node0000": "127.0.0.1:7443"}, "calls": ["get_node", "kill_and_release"], ...}'

Writes one line of JSON: for each call, what it took and what came.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mrelease import TLS, AsyncFleet, FleetAnswer, Member, NodeRef, Process


def main() -> None:
    """Make the calls one after the other, with one fleet."""
    print(json.dumps(asyncio.run(_run(json.loads(sys.argv[1])))))


async def _run(told: dict[str, Any]) -> list[dict[str, Any]]:
    tls = TLS(**told["tls"]) if told["tls"] else None
    members = [Member(name, address, node=NodeRef(name, told["boot"])) for name, address in told["agents"].items()]
    async with AsyncFleet(members, tls=tls, concurrency=told["concurrency"], connections=told["connections"]) as fleet:
        return [await _call(fleet, call, told["deadline"]) for call in told["calls"]]


async def _call(fleet: AsyncFleet, call: str, deadline: float | None) -> dict[str, Any]:
    begun, cpu = time.monotonic(), time.process_time()
    if call == "get_node":
        answers: Any = fleet.get_node(deadline=deadline)
    else:
        # A seam at the agents answers: nobody has this number.
        answers = fleet.kill_and_release(((member, Process(4194304)) for member in fleet.members), deadline=deadline)
    said: Counter[str] = Counter()
    last_good = 0.0
    answer: FleetAnswer[Any]
    async for answer in answers:
        said["answered" if answer.error is None else type(answer.error).__name__] += 1
        if answer.error is None and answer.duration.total_seconds() < 1:
            last_good = time.monotonic() - begun
    return {
        "seconds": time.monotonic() - begun,
        "prompt_seconds": last_good,
        "cpu_seconds": time.process_time() - cpu,
        "rss_bytes": _rss_bytes(),
        "said": dict(said),
    }


def _rss_bytes() -> int:
    found = re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[0]) << 10


if __name__ == "__main__":
    main()
