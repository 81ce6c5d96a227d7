"""``make bench``: measure the contenders side by side and write docs/performance.md, docs/performance.json and docs/img/bench-*.svg."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from unittest import SkipTest

from bench.cases import cases
from bench.contenders import Agent, Contender, Floor, KillAlone, compile_floor
from bench.footprint import footprint
from bench.machine import describe
from bench.plots import draw
from bench.report import markdown
from bench.results import CaseResult, Results, goals
from bench.rounds import Case, play
from bench.rpc_cost import rpc_cost
from mrelease import Client
from mrelease.demo.interrupts import Interrupted, interruptible
from mrelease.demo.private_agent import PrivateAgent

_DOCS = Path(__file__).parents[2] / "docs"
_EXTRA = ("rpc", "footprint")


def main() -> int:
    """Run what the arguments ask for. Returns 0, or 128 + n when signal n ended it; goals that are not met are printed, no more."""
    options = _arguments()
    try:
        with interruptible():
            results = _run(options)
    except Interrupted as interrupted:
        _say(f"{interrupted}: stopped and cleaned up")
        return 128 + interrupted.number
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = draw(results, options.out / "img")
    (options.out / "performance.md").write_text(markdown(results, pictures), encoding="utf-8")
    (options.out / "performance.json").write_text(json.dumps(results.data(), indent=1) + "\n", encoding="utf-8")
    for goal in goals(results):
        print(f"{'met    ' if goal.met else 'NOT MET'}  {goal.what}: {goal.found} (wanted {goal.wanted})")
    return 0


def _run(options: argparse.Namespace) -> Results:
    chosen: list[str] = options.case or [*(case.name for case in cases(quick=True, rounds=1)), *_EXTRA]
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    results = Results(command=" ".join(["make bench", *_make_arguments()]), date=now, machine=describe())
    if "footprint" in chosen:
        _say("an idle agent")
        results.footprint = footprint(1 if options.quick else 5, 0.5 if options.quick else 30.0)
    with ExitStack() as stack:
        agent = stack.enter_context(PrivateAgent())
        agent.wait_ready()
        client = stack.enter_context(Client(agent.address))
        contenders: list[Contender] = [KillAlone(), Agent(client)]
        program = compile_floor(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        if program is not None:
            contenders.insert(1, Floor(program, os.getpriority(os.PRIO_PROCESS, agent.pid)))
        else:
            _say("no C compiler: without the C program")
        if "rpc" in chosen:
            _say("the cost of the call")
            results.rpc = rpc_cost(agent.address, 5 if options.quick else 300)
        for case in cases(quick=options.quick, rounds=options.rounds):
            if case.name in chosen:
                results.cases.append(_measure(case, contenders))
    return results


def _measure(case: Case, contenders: list[Contender]) -> CaseResult:
    result = CaseResult(case)
    try:
        for measurement, stage in play(case, contenders, _say):
            result.measurements.append(measurement)
            result.how, result.observed_by = stage.how, stage.gauge.method
    except SkipTest as why:  # the lab cannot make this victim here
        result.measurements.clear()
        result.skipped = str(why)
        _say(f"{case.name}: {why}")
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    names = [*(case.name for case in cases(quick=True, rounds=1)), *_EXTRA]
    parser.add_argument("--quick", action="store_true", help="small victims, one round: shows that it works, not how fast")
    parser.add_argument("--rounds", type=int, help="rounds of each case")
    parser.add_argument("--case", action="append", choices=names, help="only this case; may be repeated")
    parser.add_argument("--out", type=Path, default=_DOCS, help="directory of the results (default: docs)")
    return parser.parse_args()


def _make_arguments() -> list[str]:
    return [f'ARGS="{" ".join(sys.argv[1:])}"'] if sys.argv[1:] else []


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
