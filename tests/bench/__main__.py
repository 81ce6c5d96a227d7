"""``make bench``: measure the contenders side by side; a section of docs/performance.md, docs/performance.json, docs/img/bench-*.svg."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from unittest import SkipTest

from bench.agents import bench_agent
from bench.callers import callers
from bench.cases import CASES
from bench.contenders import EVERYBODY, Contenders
from bench.entrants import gather
from bench.footprint import footprint
from bench.ghz import ghz
from bench.goals import goals, wrong_verdicts
from bench.ground import Ground, sweep
from bench.guarded import guarded
from bench.machine import describe
from bench.options import NAMES, Options, parse
from bench.programs import compile_programs
from bench.results import CaseResult, Results, Run, load, save
from bench.rounds import Case, play
from bench.rpc_cost import rpc_cost
from bench.scratch import scratch, sweep_scratch
from bench.stages import Bench
from bench.stuck import stuck
from mrelease.demo.budget import affordable
from mrelease.demo.interrupts import Interrupted, interruptible

#: Victims of less are not moved by the agent before the kill: it is not worth it.
_QUICK_BYTES, _QUICK_SECONDS = 96 << 20, 2.0


def main() -> int:
    """Run what the arguments ask for. Returns 0; 1 for a wrong verdict; 128 + n when signal n ended it. A goal not met is printed."""
    options = parse()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # the agent's: who measures and who calls must not be starved
    try:
        with interruptible():
            results = _run(options)
    except Interrupted as interrupted:
        _say(f"{interrupted}: stopped and cleaned up")
        return 128 + interrupted.number
    except SkipTest as why:
        _say(str(why))
        return 1
    wrong = wrong_verdicts(results.cases)
    if options.out is not None:
        results = _write(results, options.out)
    for goal in goals(results):
        print(f"{'met    ' if goal.met else 'NOT MET'}  {goal.what}: {goal.found} (wanted {goal.wanted})")
    for text in wrong:
        print(f"WRONG VERDICT  {text}")
    return int(bool(wrong))


def _run(options: Options) -> Results:
    chosen = options.only or NAMES
    for name in (*sweep(), *sweep_scratch()):
        _say(f"removed what a bench that was killed had left: {name}")
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        ground = Ground()
        stack.callback(ground.clear)
        bench = Bench(compile_programs(folder), ground, stack)
        cases = [_sized(case, options) for case in CASES if case.name in chosen]
        wanted = {name for case in cases for name in case.by} & set(options.by or EVERYBODY)
        contenders = gather(bench, wanted, options.earlyoom)
        for name, why in contenders.missing.items():
            _say(f"without {name}: {why}")
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        run = Run(now, options.command(), describe(*contenders.versions))
        results = Results()
        if "footprint" in chosen:
            _say("footprint: an idle agent")
            results.footprint = footprint(run, 1 if options.quick else 5, 0.5 if options.quick else 30.0)
        if "stuck" in chosen:
            _say("stuck: Health Checks while reaps are stuck")
            results.stuck = stuck(run, 2 if options.quick else 32, 50 if options.quick else 3000)
        if "ghz" in chosen:
            _say("ghz: the agent called from Go, and by the SDK")
            together, calls, rounds = ((4,), 20, 1) if options.quick else ((1, 16), 500, 3)
            results.ghz = ghz(run, bench.programs, together, calls, rounds)
        _small_victims(run, bench, results, chosen, quick=options.quick)
        results.cases = [_measure(run, bench, case, contenders) for case in cases]
    return results


def _small_victims(run: Run, bench: Bench, results: Results, chosen: list[str], *, quick: bool) -> None:
    """What is measured over many small victims, by an agent of its own for each way to it."""
    if "guarded" in chosen:
        _say("guarded: the cost of TLS, policy and audit")
        results.guarded = guarded(run, bench.programs, 5 if quick else 1000)
    if not {"rpc", "callers"} & set(chosen):
        return
    with bench_agent() as unix, bench_agent(tcp=True) as tcp:
        if "rpc" in chosen:
            _say("rpc: the cost of the call")
            results.rpc = rpc_cost(run, bench.programs, unix.address, tcp.address, 5 if quick else 1000)
        if "callers" in chosen:
            _say("callers: many at once")
            count, calls, rounds = (4, 2, 1) if quick else (32, 20, 5)
            results.callers = callers(run, bench.programs, unix.address, count, calls, rounds)


def _measure(run: Run, bench: Bench, case: Case, contenders: Contenders) -> CaseResult:
    missing = {name: why for name, why in contenders.missing.items() if name in case.by}
    result = CaseResult(case.name, run, case.size_bytes, case.limit, case.rounds, missing=missing)
    begun = time.monotonic()
    try:
        here = [contenders.here[name] for name in case.by if name in contenders.here]
        for measurement, stage in play(bench, case, here, _say):
            result.measurements.append(measurement.thinned())
            result.how, result.observed_by = stage.how, stage.gauge.method
    except SkipTest as why:  # such a victim cannot be made here
        result.measurements.clear()
        result.skipped = str(why)
        _say(f"{case.name}: {why}")
    result.took_seconds = round(time.monotonic() - begun, 1)
    return result


def _write(newer: Results, out: Path) -> Results:
    """Merge into what is in ``out``, and write all of it anew."""
    from bench import page
    from bench.plots import draw

    out.mkdir(parents=True, exist_ok=True)
    results = load(out / "performance.json")
    results.merge(newer, NAMES)
    draw(results, out / "img")
    save(results, out / "performance.json")
    page.write(out)
    return results


def _sized(case: Case, options: Options) -> Case:
    if options.quick:
        case = case.small(_QUICK_BYTES, _QUICK_SECONDS, 1)
    size = options.size << 20 if options.size else affordable(case.size_bytes, 1)
    return case.small(size, options.limit or case.limit, options.rounds or case.rounds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
