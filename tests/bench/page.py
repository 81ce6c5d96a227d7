"""docs/performance.md: one page of everything that was measured, made from the committed numbers alone.

Each bench writes its numbers and its pictures, and then this page anew: so it changes its own section, and its rows in the table of goals.
A section without numbers is left out. A further one is a file of numbers, a function of them that returns the section's text, which begins
with a heading of level two, and a line in ``_sections``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.goals import Goal, goals
from bench.markdown import anchor, table
from bench.results import load

_MET: Final = {True: "yes", False: "**no**"}
#: Why a goal is missed is said there.
_WHY: Final = "explanation/measured-limits.md"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: Markdown that begins with its heading of level two; what was promised of it, and found."""

    text: str
    goals: list[Goal] = field(default_factory=list[Goal])

    @property
    def title(self) -> str:
        """The heading."""
        return self.text.partition("\n")[0].removeprefix("## ")


def write(docs: Path) -> Path:
    """Write the page into ``docs``, of the numbers that are there; its path."""
    page = docs / "performance.md"
    page.write_text(render(docs), encoding="utf-8")
    return page


def render(docs: Path) -> str:
    """The page."""
    sections = list(_sections(docs))
    parts = [
        "# Performance",
        "Everything that was measured, made from the numbers beside it by `make bench`, and by the command at the head of each section. "
        "Every section says of which day, machine and versions it is. Do not edit.",
        "\n".join(f"- [{each.title}](#{anchor(each.title)})" for each in sections),
    ]
    promised = [(each.title, goal) for each in sections for goal in each.goals]
    if promised:
        rows = [[each.what, each.wanted, each.found, _MET[each.met], f"[{title}](#{anchor(title)})"] for title, each in promised]
        parts += ["## Goals", _summary(docs, [goal for _, goal in promised])]
        parts.append(table(["goal", "wanted", "measured", "met", "in"], rows))
    return "\n\n".join([*parts, *(each.text.strip() for each in sections)]) + "\n"


def _summary(docs: Path, promised: list[Goal]) -> str:
    missed = sum(not goal.met for goal in promised)
    if not missed:
        return f"All {len(promised)} goals are met."
    why = f" [Why, and what was tried]({_WHY})." if (docs / _WHY).exists() else ""
    return f"{len(promised) - missed} of {len(promised)} goals are met, {missed} {'is' if missed == 1 else 'are'} missed.{why}"


def _sections(docs: Path) -> Iterator[Section]:
    """What there are numbers of. Modules are imported where they are needed: each bench needs its own, and this page all of them."""
    from bench import report

    if (docs / "performance.json").exists():
        results = load(docs / "performance.json")
        pictures = {file.stem.removeprefix("bench-"): f"img/{file.name}" for file in (docs / "img").glob("bench-*.svg")}
        yield Section(report.section(results, pictures), goals(results))
    if (docs / "fleet-performance.json").exists():
        from bench import fleet, fleet_report

        fleets = fleet.load(docs / "fleet-performance.json")
        yield Section(fleet_report.section(fleets), fleet_report.goals(fleets))
    if found := _read(docs / "kubernetes-performance.json"):
        from e2e.k8s import bench_report

        yield Section(bench_report.section(found), bench_report.goals(found))
    if found := _read(docs / "kubernetes-scale.json"):
        from e2e.k8s import scale_report

        yield Section(scale_report.section(found))
    if found := _read(docs / "examples-performance.json"):
        from e2e.k8s import examples_report

        yield Section(examples_report.section(found))
    if found := _read(docs / "plugins" / "performance.json"):
        from plugins.bench import report as plugins_report

        yield Section(plugins_report.section(found), plugins_report.goals(found))
    if (docs / "soak.md").exists():
        yield Section("## For an hour and more\n\nMemory, descriptors, threads and latency of an agent that never rests: [soak](soak.md).")


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


if __name__ == "__main__":
    write(Path(__file__).parents[2] / "docs")
