#!/usr/bin/env python3
"""Write the tables of docs/least-privilege.md from what the tests measure; with --check, say whether they are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.privileges import CELLS, LEAST, MEASURED, Measured, without  # noqa: E402 - of the tests, which are no package

PAGE = ROOT / "docs" / "least-privilege.md"
BEGIN, END = "<!-- measured: scripts/least_privilege.py writes this -->\n", "<!-- end -->\n"
#: What a feature is in the words of who has to decide.
LOST = {
    "KILL_ANY_USER": "other users' processes",
    "COMPARE_MM": "seeing who shares memory or holds a robust mutex, and where a stuck thread waits, of other users",
    "RAISED_PRIORITY": "its own priority",
    "BOOST_PRIORITY": "raising victims (boost `priority`)",
    "BOOST_EVACUATION": "moving victims (boost `evacuation`)",
    "BOOST_LIFT": "lifting CPU weights (boost `lift`)",
}
REFUSED = {"NotPermitted": "refused (`NOT_PERMITTED`)", "ProcessNotFound": "not found (`PROCESS_NOT_FOUND`)"}


def capabilities() -> str:
    """One row for each capability: what an agent loses that has the others."""
    rows = "".join(f"| `CAP_{cap.upper()}` | {_lost(MEASURED[name])} |\n" for cap in LEAST for name in _named(without(cap)))
    return f"| capability | lost without it |\n|---|---|\n{rows}"


def surroundings() -> str:
    """One row for each cell of the matrix."""
    rows = "".join(
        f"| {cell.text} | {_kill(MEASURED[name].own)} | {_kill(MEASURED[name].other)} | {_lost(MEASURED[name])} |\n"
        for name, cell in CELLS.items()
    )
    return f"| agent | kills its own user's | kills another user's | lost |\n|---|---|---|---|\n{rows}"


def _named(caps: tuple[str, ...]) -> list[str]:
    return [name for name, cell in CELLS.items() if cell.caps == caps and not (cell.uid or cell.mounts)]


def _kill(outcome: str) -> str:
    return f"`{outcome}`" if outcome.isupper() else REFUSED[outcome]


def _lost(found: Measured) -> str:
    parts = [text for feature, text in LOST.items() if feature in found.lost]
    parts += [] if found.locked else ["keeping its memory in RAM"]
    return "; ".join(parts) or "nothing"


def page(text: str) -> str:
    """The page with its two tables made anew. Raises ValueError where it has not the places for them."""
    parts = text.split(BEGIN)
    if len(parts) != 3 or any(END not in part for part in parts[1:]):
        raise ValueError(f"{PAGE} has not two places for tables")
    first, second = (part.partition(END)[2] for part in parts[1:])
    return f"{parts[0]}{BEGIN}{capabilities()}{END}{first}{BEGIN}{surroundings()}{END}{second}"


def main() -> int:
    """Write the page, or compare it; returns 1 where it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is out of date")
    check = parser.parse_args().check
    now = PAGE.read_text()
    text = page(now)
    if check and text != now:
        print("docs/least-privilege.md is out of date: run scripts/least_privilege.py", file=sys.stderr)
        return 1
    if not check:
        PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
