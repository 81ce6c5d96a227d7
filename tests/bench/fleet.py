"""``python -m bench.fleet``: one caller and 10, 100 and 1,000 agents; a section of docs/performance.md, its numbers and its picture.

The agents are servers of their own in four processes, see ``support.fleet_agents``; caller and agents share the CPUs of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from bench import fleet_report, page
from bench.machine import describe
from bench.scratch import scratch
from support.fleet_agents import BOOT, fleet_agents
from support.pki import Pki

_DOCS = Path(__file__).parents[2] / "docs"
_PROCESSES = 4
#: Seconds after which nobody waits any longer for the one that never answers.
_PATIENCE = 10.0
_TICK = os.sysconf("SC_CLK_TCK")
#: Of a call over all agents, in this order: the first makes the connections.
CALLS = ("get_node", "get_node", "kill_and_release")


@dataclass(frozen=True, slots=True)
class Call:
    """One call over so many agents: medians of the rounds, and the longest. Memory is the caller's, after it."""

    seconds: float
    most_seconds: float
    cpu_seconds: float
    agents_cpu_seconds: float
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Size:
    """The calls over so many agents, by mutual TLS or without; ``first``: connections are made."""

    agents: int
    tls: bool
    connections: int
    first: Call
    again: Call
    kill: Call


@dataclass(frozen=True, slots=True)
class Odd:
    """One call among whose agents are odd ones: when the others had answered, when the last, and who said what."""

    agents: int
    prompt_seconds: float
    seconds: float
    said: dict[str, int]


@dataclass(slots=True)
class Results:
    """What was measured. ``memory``: of the caller after each of many calls over all, by how many connections it keeps."""

    command: str
    date: str
    machine: dict[str, str]
    rounds: int
    sizes: list[Size] = field(default_factory=list[Size])
    memory: dict[str, list[int]] = field(default_factory=dict[str, "list[int]"])
    odd: Odd | None = None


def main() -> int:
    """Measure, write, print whether the goal is met. Returns 1 where anybody has not answered who should have."""
    options = _parse()
    sizes = [int(size) for size in options.sizes.split(",")]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    command = "python -m bench.fleet" + (f" --sizes {options.sizes}" if options.sizes != _SIZES else "")
    command += f" --repeat {options.repeat}" if options.repeat != _REPEAT else ""
    results = Results(command + (f" --rounds {options.rounds}" if options.rounds != _ROUNDS else ""), now, describe(), options.rounds)
    with scratch() as folder:
        pki = Pki.make(folder / "pki")
        for tls in (False, True):
            with ExitStack() as stack:
                agents, pids = _start(stack, max(sizes), pki if tls else None, folder)
                for size in sizes:
                    results.sizes.append(_size(dict(list(agents.items())[:size]), pids, pki if tls else None, options.rounds))
                    _say(fleet_report.line(results.sizes[-1]))
                if tls:
                    for connections in (256, max(sizes)):
                        told = {"calls": ["kill_and_release"] * options.repeat, "connections": connections}
                        memory = [call["rss_bytes"] for call in _ask(agents, pki, **told)]
                        results.memory[str(connections)] = memory
                        _say(f"memory with {connections} connections: {[size >> 20 for size in memory]} MiB")
        with ExitStack() as stack:
            count = max(sizes)
            odd = {count // 4: "silent", count // 2: "late 2", count - 1: "boot"}
            agents, _ = _start(stack, count, pki, folder, odd)
            call = _ask(agents, pki, calls=["get_node"], deadline=_PATIENCE)[0]
            results.odd = Odd(count, call["prompt_seconds"], call["seconds"], call["said"])
            _say(f"with odd ones: {results.odd}")
    results.machine["load after"] = f"{os.getloadavg()[0]:.2f} (1 minute); what does not come from caller and agents is of others"
    if options.out is not None:
        _write(results, options.out)
    for goal in fleet_report.goals(results):
        print(f"{'met    ' if goal.met else 'NOT MET'}  {goal.what}: {goal.found} (wanted {goal.wanted})")
    return 0


_SIZES, _ROUNDS, _REPEAT = "10,100,1000", 5, 20


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description="Measure one caller and very many agents.")
    parser.add_argument("--sizes", default=_SIZES, help="how many agents (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="callers of each size (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=_REPEAT, help="calls of the one caller whose memory is watched (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="directory of the results (default: docs; of other sizes or rounds: none)")
    options = parser.parse_args()
    if options.out is None and (options.sizes, options.rounds) == (_SIZES, _ROUNDS):
        options.out = _DOCS
    return options


def _start(
    stack: ExitStack, count: int, pki: Pki | None, folder: Path, odd: dict[int, str] | None = None
) -> tuple[dict[str, str], list[int]]:
    agents: dict[str, str] = {}
    pids: list[int] = []
    each = -(-count // _PROCESSES)
    for first in range(0, count, each):
        mine = {number: kind for number, kind in (odd or {}).items() if first <= number < first + each}
        crowd = stack.enter_context(fleet_agents(min(each, count - first), first=first, odd=mine, pki=pki, tmp=folder))
        agents |= crowd.agents
        pids.append(crowd.pid)
    return agents, pids


def _size(agents: dict[str, str], pids: list[int], pki: Pki | None, rounds: int) -> Size:
    rows: list[list[dict[str, Any]]] = []
    cpu: list[float] = []
    for _ in range(rounds):
        before = _cpu(pids)
        rows.append(_ask(agents, pki, calls=list(CALLS), connections=max(256, len(agents))))
        cpu.append((_cpu(pids) - before) / len(CALLS))
    for row in rows:
        for call in row:
            assert call["said"] == {"answered": len(agents)}, call
    calls = [
        Call(
            statistics.median(row[at]["seconds"] for row in rows),
            max(row[at]["seconds"] for row in rows),
            statistics.median(row[at]["cpu_seconds"] for row in rows),
            statistics.median(cpu),
            int(statistics.median(row[at]["rss_bytes"] for row in rows)),
        )
        for at in range(len(CALLS))
    ]
    return Size(len(agents), pki is not None, max(256, len(agents)), *calls)


def _ask(agents: dict[str, str], pki: Pki | None, **more: Any) -> list[dict[str, Any]]:
    pair = None if pki is None else pki.pair("client")
    tls = None if pki is None or pair is None else {"ca": str(pki.ca), "cert": str(pair.cert), "key": str(pair.key)}
    told = {"agents": agents, "tls": tls, "boot": BOOT, "concurrency": 64, "connections": 256, "deadline": None, **more}
    program = Path(__file__).with_name("fleet_caller.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MRELEASE_")}
    done = subprocess.run([sys.executable, str(program), json.dumps(told)], env=environment, stdout=subprocess.PIPE, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def _cpu(pids: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / _TICK


def _write(results: Results, out: Path) -> None:
    fleet_report.draw(results, out / "img")
    (out / "fleet-performance.json").write_text(json.dumps({"schema": 1, **asdict(results)}, indent=1) + "\n", encoding="utf-8")
    page.write(out)


def load(file: Path) -> Results:
    """Read docs/fleet-performance.json."""
    return msgspec.json.decode(file.read_bytes(), type=Results)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
