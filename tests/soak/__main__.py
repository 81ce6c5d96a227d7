"""``make soak``: an observer apart from the agent watches it kill, and every answer is compared with what was seen."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from unittest import SkipTest

from bench.agents import bench_agent
from bench.machine import describe
from bench.scratch import scratch
from mrelease.demo.interrupts import Interrupted, interruptible
from soak.options import Options, parse
from soak.pool import pool
from soak.programs import compile_programs
from soak.results import criteria, results_of
from soak.runner import Runner, opened


def main() -> int:
    """Run what the arguments ask for. Returns 0; 1 for an answer that was wrong, or where nothing can be compared here."""
    options = parse()
    if options.again is not None:
        from soak.report import write

        write(json.loads(options.again.read_text()), options.out or options.again.parent)
        return 0
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background: Ctrl-C is not meant for this, nor for what it starts, which inherits the mask.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with interruptible():
            return _run(options)
    except Interrupted as interrupted:
        _say(f"{interrupted}: stopped and cleaned up")
        return 128 + interrupted.number
    except SkipTest as why:
        _say(str(why))
        return 1


def _run(options: Options) -> int:
    _say(f"seed {options.seed}")
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        programs = compile_programs(folder)
        agent = stack.enter_context(bench_agent())
        workers = stack.enter_context(pool(agent.address, folder))
        runner = Runner(options, agent, programs, workers, opened(options.log, stack), _say)
        run: dict[str, object] = {
            "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            "command": options.command(),
            "machine": describe(),
        }

        def write() -> None:
            if options.out is not None:
                _write(runner, run, options.out)

        runner.run(write)
    results = results_of(runner.tally, runner.samples, run)
    for each in criteria(results):
        print(f"{'met    ' if each.met else 'NOT MET'}  {each.what}: {each.found} (wanted {each.wanted})")
    for name, kind in results["kinds"].items():
        if kind["unavailable"] and not kind["kills"]:
            print(f"without {name}: {kind['unavailable']}")
    print(f"{results['kills']} kills of {results['processes']} processes compared, {sum(results['faults'].values())} wrong")
    return int(bool(results["faults"]) or not results["kills"])


def _write(runner: Runner, run: dict[str, object], out: Path) -> None:
    from soak.report import write

    write(results_of(runner.tally, runner.samples, run), out)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
