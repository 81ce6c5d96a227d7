"""What ``make bench`` can be told."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.cases import CASES
from bench.contenders import EVERYBODY

_DOCS = Path(__file__).parents[2] / "docs"
#: What is no case of victims, and how many seconds it takes.
EXTRA = {"rpc": 40, "guarded": 60, "callers": 40, "stuck": 40, "ghz": 40, "footprint": 35}
#: Everything, in the order in which it is reported.
NAMES = [*(case.name for case in CASES), *EXTRA]
_MAKE = 'make bench ARGS="..."'
_DESCRIPTION = "Measure the contenders side by side: a section of docs/performance.md, docs/performance.json and docs/img/bench-*.svg."


class Options(argparse.Namespace):
    """The arguments. ``out`` is None where nothing is to be written: of a trial that names no directory."""

    only: list[str] | None
    by: list[str] | None
    quick: bool
    rounds: int | None
    size: int | None
    limit: float | None
    earlyoom: str | None
    out: Path | None

    def command(self) -> str:
        """What was called, without what is of this machine alone."""
        told = {
            "only": ",".join(self.only or []),
            "by": ",".join(self.by or []),
            "rounds": self.rounds,
            "size": self.size,
            "limit": self.limit,
        }
        words = [f"--{name} {value}" for name, value in told.items() if value] + ["--quick"] * self.quick
        return "make bench" + (f' ARGS="{" ".join(words)}"' if words else "")


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog=_MAKE, description=_DESCRIPTION, epilog=_costs(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", metavar="CASE,...", help="only these; merged into the results that are there")
    add("--by", metavar="CONTENDER,...", help="a trial of these alone: " + ", ".join(EVERYBODY))
    add("--quick", action="store_true", help="a trial: small victims, one round: shows that it works, not how fast")
    add("--rounds", type=int, help="a trial of so many rounds")
    add("--size", type=int, metavar="MIB", help="a trial with victims of at most so much")
    add("--limit", type=float, metavar="SECONDS", help="a trial in which nobody is watched for longer")
    add("--earlyoom", metavar="FILE", help="earlyoom 1.8 or newer (default: the one in PATH)")
    add("--out", type=Path, help="directory of the results (default: docs; of a trial: none, its goals are printed)")
    options = parser.parse_args(arguments, Options())
    for name, known in (("only", NAMES), ("by", list(EVERYBODY))):
        chosen = str(getattr(options, name) or "").split(",") if getattr(options, name) else None
        if unknown := sorted(set(chosen or ()) - set(known)):
            parser.error(f"--{name}: {', '.join(unknown)}: choose from {', '.join(known)}")
        setattr(options, name, chosen)
    trial = options.quick or options.rounds or options.size or options.limit or options.by
    options.out = options.out or (None if trial else _DOCS)
    return options


def _costs() -> str:
    costs = {**{case.name: case.seconds for case in CASES}, **EXTRA}
    titles = {case.name: case.title for case in CASES}
    lines = [f"  {name:<12}{costs[name]:>5} s  {titles.get(name, '')}".rstrip() for name in NAMES]
    needs = (
        "a C compiler; for `ctr task kill` also containerd and runc, for earlyoom and ghz those. What is missing is left out, and the page "
        "says so."
    )
    return "\n".join(
        ["cases, and what each takes on 2 CPUs:", *lines, f"  {'together':<12}{sum(costs.values()):>5} s", "", f"needs {needs}"]
    )
