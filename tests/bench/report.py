"""docs/performance.md."""

from __future__ import annotations

from bench.results import AGENT, KILL, CaseResult, Results, goals
from bench.statistics_of import Spread, duration


def markdown(results: Results, pictures: dict[str, str]) -> str:
    """The page; ``pictures`` maps the name of a case, or ``medians``, to the file's path beside the page."""
    parts = [
        "# Performance",
        f"Made by `{results.command}` on {results.date}; the raw numbers are in [performance.json](performance.json). Do not edit.",
        _table(["", ""], [[name, value] for name, value in results.machine.items()]),
        "## Goals",
        _table(
            ["goal", "wanted", "measured", "met"],
            [[g.what, g.wanted, g.found, "yes" if g.met else "**no**"] for g in goals(results)],
        ),
        _HOW,
    ]
    if "medians" in pictures:
        parts.append(f"![Time to memory back, medians]({pictures['medians']})")
    for case in results.cases:
        parts += _case(case, pictures)
    if (cost := results.rpc) is not None:
        rows = [
            ["grpc.health Check", duration(cost.check_p50, 1), duration(cost.check_p99, 1)],
            ["KillAndRelease", duration(cost.call_p50, 1), duration(cost.call_p99, 1)],
            ["KillAndRelease over the release itself", duration(cost.over_p50, 1), duration(cost.over_p99, 1)],
        ]
        about = (
            f"{cost.calls} sleeping victims of 1 MiB, one after another, on one channel over a Unix socket; before each, one Health Check."
        )
        parts += ["## Cost of the call", about, _table(["call", "p50", "p99"], rows)]
    if (idle := results.footprint) is not None:
        rows = [
            ["resident memory", f"{idle.rss_bytes / (1 << 20):.1f} MiB"],
            ["CPU", f"{idle.cpu_share * 100:.2f} % of one CPU over {idle.idle_seconds:g} s"],
            ["threads", str(idle.threads)],
            ["ready after", f"{duration(idle.ready_seconds, 1)} (median of {idle.starts} starts)"],
        ]
        parts += ["## Idle agent", _table(["", ""], rows)]
    return "\n\n".join(parts) + "\n"


def _case(result: CaseResult, pictures: dict[str, str]) -> list[str]:
    case = result.case
    heading = f"## {case.title}"
    if not result.measurements:
        return [heading, f"Not measured: {result.skipped}."]
    size = f"{case.size_bytes / (1 << 30):g} GiB" if case.size_bytes >= 1 << 30 else f"{case.size_bytes >> 20} MiB"
    rounds = f"{case.rounds} round{'s' * (case.rounds > 1)}, each victim watched for {case.limit:g} s"
    about = f"{case.about} Victim of {size}, held back by {result.how}; {rounds}."
    rows: list[list[str]] = []
    for name in result.contenders:
        measurements = result.by(name)
        own = [m.own_release_seconds for m in measurements]
        ratio = result.ratio(KILL, name) if name != KILL else None
        rows.append(
            [
                name,
                result.back(name).text(case.limit),
                result.exited(name).text(case.limit),
                Spread.of(own).text(case.limit) if any(value is not None for value in own) else "-",
                Spread.of(m.call_seconds for m in measurements).text(case.limit) if name == AGENT else "-",
                "1" if name == KILL else str(ratio) if ratio is not None else "-",
                f"{max(m.left_bytes for m in measurements) >> 20} MiB",
                ", ".join(sorted({m.verdict for m in measurements if m.verdict})) or "-",
            ]
        )
    header = ["contender", "memory back", "exit", "by its own account", "call", "kill(2) / it", "held at the end, most", "says"]
    parts = [heading, f"{about} Observed by {result.observed_by}.", _table(header, rows)]
    if case.name in pictures:
        parts.append(f"![Memory still held over time, first round]({pictures[case.name]})")
    return parts


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


_HOW = """## How it is measured

The contenders take turns in every round, each on a fresh victim, each round beginning with another one. "kill(2)" sends SIGKILL and nothing
else. The C program ([floor.c](../tests/bench/floor.c)) makes the system calls of the kernel's own selftest and nothing else, at the agent's
priority. The agent is called through the SDK over its Unix socket. One observer, which is none of them, samples what the victim still holds
and when its pidfd says that it has exited; memory is back when no more than 5 % of what the victim held is left. Times begin with the
contender's first step: the signal, or the call of the SDK. Numbers are medians, with the least and the most in brackets."""
