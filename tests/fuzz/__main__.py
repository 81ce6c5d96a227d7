"""``make fuzz``: look for inputs that break a promise, guided by what of the code they reach (atheris, libFuzzer).

What is found stays: an input that reached something new in ``--keep``, where the next run begins, and one that broke something in
tests/fuzz/corpus, where `make test` tries it from then on. Nothing is sent anywhere; nobody is killed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from fuzz.names import HERE, NAMES, corpus

#: Of one input: seconds; of the process: memory; of an input: bytes.
SECONDS, MEBIBYTES, LENGTH = 5, 1024, 4096


def main() -> int:
    """Run what the arguments ask for. Returns 0; 1 where something was found, or where it cannot run."""
    options = parse()
    if find_spec("atheris") is None:
        print(
            "make fuzz needs atheris, which there is for Linux on x86-64 and Python 3.11 to 3.13: pip install 'mrelease[fuzz]'; "
            "`make test` tries the inputs that are known",
            file=sys.stderr,
        )
        return 1
    broken = [name for name in options.only if not run(name, options)]
    if broken:
        print(f"broken: {', '.join(broken)}; the inputs are in tests/fuzz/corpus, and `make test` fails until they pass", file=sys.stderr)
    return int(bool(broken))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make fuzz", description="Look for inputs that break a promise.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target [60]")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0: another one each time [0]")
    parser.add_argument("--keep", type=Path, help="folder for inputs that reach something new [none]")
    parser.add_argument("--only", type=names, default=NAMES, help=f"some of {','.join(NAMES)} [all]")
    return parser.parse_args()


def names(text: str) -> tuple[str, ...]:
    """Names of targets with commas between them."""
    found = tuple(text.split(","))
    if wrong := set(found) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no target: {', '.join(sorted(wrong))}; there are {', '.join(NAMES)}")
    return found


def run(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one target in a process of its own; whether it held. Says one line, and all of libFuzzer's where it did not."""
    seeds = corpus(name)
    seeds.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mrelease-fuzz-", dir=memory if os.access(memory, os.W_OK) else None) as scratch:
        found = options.keep / name if options.keep else Path(scratch, "found")
        found.mkdir(parents=True, exist_ok=True)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "fuzz.one", name),
                *(f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEBIBYTES}"),
                *(f"-max_len={LENGTH}", "-print_final_stats=1", f"-artifact_prefix={seeds}/"),
                *(str(found), str(seeds)),
            ],
            env={**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": scratch},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    held = ended.returncode == 0
    if not held:
        print(ended.stdout[-8000:], file=sys.stderr)
    runs = next((line.split()[-1] for line in ended.stdout.splitlines() if line.startswith("stat::number_of_executed_units")), "?")
    print(f"{'held  ' if held else 'BROKEN'}  {name:14}{runs:>9} inputs in {time.monotonic() - start:.0f} s", flush=True)
    return held


if __name__ == "__main__":
    sys.exit(main())
