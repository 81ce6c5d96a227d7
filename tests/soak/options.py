"""What ``make soak`` can be told."""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from soak.lab_kinds import KINDS

_DOCS = Path(__file__).parents[2] / "docs"
_DESCRIPTION = """Let an observer that is no part of the agent watch it kill, and compare what the agent answers with what was seen.
A run of an hour or more writes docs/soak.md, docs/soak.json and docs/img/soak.svg."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


class Options(argparse.Namespace):
    """The arguments. ``seconds`` and ``kills``: the run ends with what comes first; None: not by that."""

    seconds: float | None
    kills: int | None
    seed: int
    slots: int
    rate: float
    phase: float
    hog_nice: int
    only: list[str] | None
    out: Path | None
    log: Path | None
    again: Path | None

    def command(self) -> str:
        """What was called."""
        words = [f"--kills {self.kills}"] if self.kills else []
        words += [f"--for {self.seconds:g}s"] if self.seconds else []
        words += [f"--rate {self.rate:g}", f"--slots {self.slots}", f"--seed {self.seed}"]
        words += [f"--hog-nice {self.hog_nice}"] * bool(self.hog_nice)
        return f'make soak ARGS="{" ".join(words)}"'


def seconds(text: str) -> float:
    """``90s``, ``10m``, ``1h``. Raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 90s, 10m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog='make soak ARGS="..."', description=_DESCRIPTION)
    add = parser.add_argument
    add(
        "--for", dest="seconds", type=seconds, metavar="TIME", help="so long, such as 90s, 10m or 1h (default: 1m, unless --kills is given)"
    )
    add("--kills", type=int, help="so many kills")
    add("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="which victims, in which order (default: by lot)")
    add("--slots", type=int, default=8, help="at most so many victims at once (default: 8)")
    add("--rate", type=float, default=10.0, help="at most so many kills a second (default: 10)")
    add("--phase", type=float, default=20.0, help="seconds of a phase: each has its own number of victims at once, and is idle or busy")
    add("--hog-nice", type=int, default=0, help="nice value of the CPU hogs of busy phases, for a machine that others work on (default: 0)")
    add("--only", metavar="KIND;...", help=f"only these victims: {'; '.join(KINDS)}")
    add("--out", type=Path, help="directory of the results (default: docs for a run of an hour or more, else none)")
    add("--log", type=Path, help="file that gets one line of JSON for each kill")
    add("--again", type=Path, metavar="FILE", help="no run: write the page and the picture of this soak.json anew, into --out")
    options = parser.parse_args(arguments, Options())
    if options.only is not None:
        options.only = [name.strip() for name in str(options.only).split(";")]
        unknown = [name for name in options.only if name not in KINDS]
        if unknown:
            parser.error(f"no such kind: {', '.join(unknown)}")
    if options.seconds is None and options.kills is None:
        options.seconds = 60.0
    if options.out is None and (options.again is not None or (options.seconds or 0) >= 3600):
        options.out = _DOCS
    return options
