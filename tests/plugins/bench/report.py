"""The section of orchestrators in docs/performance.md, its picture, the tables of the plugins' own pages: made from the measurements."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import page
from bench.goals import Goal
from bench.markdown import anchor
from plugins.bench.case import ALONE, OURS

Results: TypeAlias = dict[str, dict[str, Any]]
Rows: TypeAlias = list[dict[str, Any]]

#: Between these lines of docs/plugins/NAME.md the table goes.
BEGIN: Final = "<!-- table: of make bench-plugins -->"
END: Final = "<!-- table: end -->"
_TITLE: Final = "Orchestrators alone and with us"
_NUMBERS: Final = Path("plugins") / "performance.json"
_ALONE, _OURS = "#c0392b", "#1e8449"


def load(docs: Path) -> Results:
    """The measurements of earlier runs, by the orchestrator's page; none."""
    file = docs / _NUMBERS
    found: Results = json.loads(file.read_text()) if file.exists() else {}
    return found


def write(results: Results, docs: Path) -> list[Path]:
    """Write numbers, picture, page, and the tables of those pages that have a place for one; their paths."""
    numbers, picture = docs / _NUMBERS, docs / "img" / "plugins.svg"
    for path in (numbers, picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: results[name] for name in sorted(results)}
    numbers.write_text(json.dumps(ordered, indent=1) + "\n")
    library: Any = mpl
    with library.rc_context({"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}):
        _draw(ordered).savefig(picture, metadata={"Date": None, "Creator": None})
    written = [numbers, picture, page.write(docs)]
    for name, one in ordered.items():
        own = docs / "plugins" / f"{name}.md"
        if own.exists() and (changed := placed(own.read_text(), one)) is not None:
            own.write_text(changed)
            written.append(own)
    return written


def placed(text: str, one: Mapping[str, Any]) -> str | None:
    """A page with the table between the two lines; None where it has not both."""
    found = re.search(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", text, re.S)
    if found is None:
        return None
    run = one["run"]
    how = f"[how](../performance.md#{anchor(_TITLE)})"
    about = f"{_version(one)}, {run['rounds']} rounds, {run['machine']['kernel']}, {run['date']}: {how}."
    return f"{text[: found.start()]}{BEGIN}\n\n{table(one)}\n\n{about}\n\n{END}{text[found.end() :]}"


def _version(one: Mapping[str, Any]) -> str:
    name, version = str(one["name"]), str(one["version"])
    return version if version.lower().startswith(name.lower()) else f"{name} {version}"


def table(one: Mapping[str, Any]) -> str:
    """The table of an orchestrator."""
    lines = [["", "", "memory back", "it says", "room usable by others"], ["---"] * 5]
    for situation, contender, rows in groups(one["measurements"]):
        lines.append([situation, contender, _spread(rows), _words(rows, "state"), _words(rows, "usable")])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def groups(rows: Rows) -> Iterator[tuple[str, str, Rows]]:
    """The rounds of each contender in each situation, in their order."""
    keys = dict.fromkeys((row["situation"], row["contender"]) for row in rows)
    for situation, contender in keys:
        yield situation, contender, [row for row in rows if (row["situation"], row["contender"]) == (situation, contender)]


def _times(rows: Rows) -> list[float]:
    return [math.inf if row["back_seconds"] is None else row["back_seconds"] for row in rows]


def _duration(seconds: float, limit: float) -> str:
    if math.isinf(seconds):
        return f"not in {limit:g} s"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _spread(rows: Rows) -> str:
    times, limit = _times(rows), rows[0]["limit"]
    if math.isinf(min(times)):
        return _duration(math.inf, limit)
    least, most = _duration(min(times), limit), _duration(max(times), limit)
    return f"{_duration(statistics.median_low(times), limit)} ({least} to {most})"


def _words(rows: Rows, key: str) -> str:
    """What was said, with how often where it was not always the same."""
    said = [str(row[key]) for row in rows]
    different = dict.fromkeys(said)
    return "; ".join(text if len(different) == 1 else f"{text} ({said.count(text)} of {len(said)})" for text in different)


def goals(results: Results) -> list[Goal]:
    """What was promised, and what was found."""
    found: list[Goal] = []
    for one in results.values():
        rows: Rows = one["measurements"]
        alone = [row for row in rows if row["contender"] == ALONE]
        ours = [row for row in rows if row["contender"] == OURS]
        what = f"{one['name']}, a thread in state D: memory back, alone and with mrelease"
        said = f"{_times(alone).count(math.inf)} of {len(alone)} times not in {alone[0]['limit']:g} s, and {_spread(ours)}"
        found.append(Goal(what, "always with it", said, not math.isinf(max(_times(ours)))))
    return found


def section(results: Results) -> str:
    """The section."""
    parts = [
        f"## {_TITLE}",
        "Measured by `make bench-plugins`; the raw numbers are in [plugins/performance.json](plugins/performance.json).",
        "A process that an orchestrator ends and whose memory does not come back: it has taken it, and one of its threads is in state D, "
        "in a read of a file system that does not answer, so that SIGKILL does nothing. Each orchestrator is the real one, on one node; "
        "the process is a fresh one in every round, and the contenders take turns.",
        "![Time to memory back](img/plugins.svg)",
    ]
    for one in results.values():
        run = one["run"]
        facts: Sequence[tuple[str, str]] = (("date", run["date"]), ("rounds", str(run["rounds"])), *run["machine"].items())
        parts += [f"### {one['name']}", f"{_version(one)}; {'; '.join(f'{key}: {value}' for key, value in facts)}.", table(one)]
    parts.append(
        "*Memory back*: seconds from the request (the command, or the call, that ends it; for a limit, when it is exceeded) until no more "
        "than 5 % of its anonymous memory is left, as an observer sees it that is neither orchestrator nor agent; the median, with the "
        "least and the most in brackets. *Not in 30 s*: it was watched for so long, and it never comes back by itself. *It says*, *room "
        "usable*: at the end of that time. The machine is not quiet: other work runs on it, and *load before* says how much; the bench and "
        "all that it starts, orchestrators as agents, run at nice -20. The figures are good for seconds against never, not for comparing "
        "milliseconds."
    )
    return "\n\n".join(parts) + "\n"


def _draw(results: Results) -> Any:
    bars = [
        (f"{one['name']}: {contender.replace('`', '')}", rows, contender == ALONE)
        for one in results.values()
        for _, contender, rows in groups(one["measurements"])
    ]
    figure: Any = Figure(figsize=(8, 1 + 0.36 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, rows, is_alone) in enumerate(bars):
        limit, times = rows[0]["limit"], _times(rows)
        median = statistics.median_low(times)
        axes.barh(
            place, min(median, limit), 0.7, color=_ALONE if is_alone else _OURS, hatch="//" if math.isinf(median) else None, alpha=0.9
        )
        known = [seconds for seconds in times if not math.isinf(seconds)]
        axes.text(max([min(median, limit), *known]) * 1.05, place, f" {_duration(median, limit)}", va="center", fontsize=8)
        axes.plot(known, [place] * len(known), ".", color="black", ms=3)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.01, 400)
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_xlabel("seconds from request to memory back: median, and each round\nhatched: not while it was watched")
    return figure
