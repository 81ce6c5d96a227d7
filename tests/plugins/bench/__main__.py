"""Orchestrators alone and with us: what comes of a process that does not give its memory back.

    make bench-plugins ARGS="--only ray --rounds 1"

As root, with the orchestrators installed (`make test-plugins` says which are not). Writes docs/plugins/performance.json, a picture, its
section of docs/performance.md, and the tables within docs/plugins/NAME.md. What is not run keeps the figures of its last run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

from bench.machine import describe
from plugins.bench.case import Case, Measured
from plugins.bench.report import load, write

_HERE = Path(__file__).parents[1]


def main() -> int:
    """Measure, write, and say where."""
    known = sorted(path.parent.name for path in _HERE.glob("*/bench.py"))
    parser = argparse.ArgumentParser(prog="make bench-plugins", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each contender (3)")
    parser.add_argument("--only", default=",".join(known), help=f"which orchestrators ({','.join(known)})")
    parser.add_argument("--out", type=Path, default=_HERE.parents[1] / "docs", help="directory (docs)")
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := set(names) - set(known):
        parser.error(f"no cases for {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    with contextlib.suppress(PermissionError):
        # It and all that it starts, orchestrators as agents: other work on this machine is not what is compared.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    results, failed = load(asked.out), False
    for name in names:
        cases: list[Case] = importlib.import_module(f"plugins.{name}.bench").cases()
        run = {"date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "rounds": asked.rounds, "machine": describe()}
        try:
            measurements = _play(cases, asked.rounds)
        except SkipTest as why:
            print(f"{name}: left out: {why}")
            failed = True
            continue
        titles = {"name": cases[0].orchestrator, "version": cases[0].version}
        results[name] = {**titles, "run": run, "measurements": measurements}
        for path in write(results, asked.out):
            print(path)
    return int(failed)


def _play(cases: Sequence[Case], rounds: int) -> list[dict[str, Any]]:
    """Each contender in every round, each round beginning with another one. One failure does not end the others."""
    found: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        if cases[0].ground is not None:
            stack.enter_context(cases[0].ground())
        for number in range(rounds):
            first = number % len(cases)
            for case in [*cases[first:], *cases[:first]]:
                measured = case.measure(case.limit)
                print(
                    f"{case.orchestrator} {number + 1}/{rounds}, {case.situation}, {case.contender}: {_told(measured, case.limit)}",
                    flush=True,
                )
                # In the order of the tables, whoever began.
                found.append(_row(case, cases.index(case), number, measured))
    return sorted(found, key=lambda row: (row.pop("order"), row["round"]))


def _row(case: Case, order: int, number: int, measured: Measured) -> dict[str, Any]:
    return {
        "order": order,
        "situation": case.situation,
        "contender": case.contender,
        "round": number,
        "limit": case.limit,
        "held_bytes": measured.held_bytes,
        "back_seconds": None if measured.back_seconds is None else round(measured.back_seconds, 4),
        "state": measured.state,
        "usable": measured.usable,
    }


def _told(measured: Measured, limit: float) -> str:
    back = f"never in {limit:g} s" if measured.back_seconds is None else f"{measured.back_seconds:.3f} s"
    return f"{measured.held_bytes >> 20} MiB back: {back}; {measured.state}; usable: {measured.usable}"


if __name__ == "__main__":
    sys.exit(main())
