"""The section of a fleet in docs/performance.md, and docs/img/fleet.svg: made from the results alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.goals import Goal
from bench.markdown import facts, table
from bench.statistics_of import duration

if TYPE_CHECKING:
    from bench.fleet import Call, Odd, Results, Size

_GOAL_SECONDS = 5.0
#: Memory is flat where the last calls take no more than so much beyond the first ones.
_GROWTH = 1.05
_FAR = 10_000
_WAYS = {False: "plaintext", True: "mutual TLS"}


def line(size: Size) -> str:
    """One measured size, for people."""
    return f"{size.agents} agents, {_WAYS[size.tls]}: " + ", ".join(
        f"{name} {duration(call.seconds, 60)}" for name, call in (("first", size.first), ("again", size.again), ("kill", size.kill))
    )


def goals(results: Results) -> list[Goal]:
    """What was promised, and what was found."""
    found: list[Goal] = []
    for size in results.sizes:
        if size.agents == max(each.agents for each in results.sizes):
            for what, call in (("all answered, connections made", size.first), ("all killed", size.kill)):
                met = call.most_seconds <= _GOAL_SECONDS
                title = f"{size.agents:,} agents, {_WAYS[size.tls]}: {what}, longest of {results.rounds}"
                found.append(Goal(title, f"<= {_GOAL_SECONDS:g} s", duration(call.most_seconds, 60), met))
    for connections, memory in results.memory.items():
        begin, end = memory[len(memory) // 4], memory[-1]
        title = f"memory of the caller, {connections} connections kept: last call / a quarter of them"
        found.append(Goal(title, f"<= {_GROWTH:g}", f"{end / begin:.2f}", end <= begin * _GROWTH))
    if (odd := results.odd) is not None:
        expected = {"answered": odd.agents - 2, "DeadlineExceeded": 1, "NodeMismatch": 1}
        found.append(Goal("odd agents: who answered what", "each its own, the rest unaffected", _said(odd.said), odd.said == expected))
        title = "odd agents: all others answered after"
        found.append(Goal(title, f"<= {_GOAL_SECONDS:g} s", duration(odd.prompt_seconds, 60), odd.prompt_seconds <= _GOAL_SECONDS))
    return found


def section(results: Results) -> str:
    """The section."""
    parts = [
        "## A fleet",
        "Measured by `python -m bench.fleet`; the raw numbers are in [fleet-performance.json](fleet-performance.json).",
        facts(
            [("command", f"`PYTHONPATH=tests .venv/bin/{results.command}`"), ("date", results.date), *results.machine.items()],
        ),
        _HOW.format(rounds=results.rounds),
        "![How time and memory grow with the number of agents](img/fleet.svg)",
        "### Time",
        table(
            ["agents", "by", "GetNode, connections made", "GetNode again", "KillAndRelease", "caller's CPU, first", "again", "agents' CPU"],
            [_row(size) for size in results.sizes],
        ),
        "Medians, and the longest in brackets. *Agents' CPU*: of all of them together, of each of the three calls.",
        "### Memory of the caller",
        _memory(results),
    ]
    if (odd := results.odd) is not None:
        parts += ["### Odd agents", _odd(odd)]
    return "\n\n".join([*parts, *_far(results)]) + "\n"


def _row(size: Size) -> list[str]:
    def time(call: Call) -> str:
        return f"{duration(call.seconds, 60)} ({duration(call.most_seconds, 60)})"

    cpu = [duration(seconds, 60) for seconds in (size.first.cpu_seconds, size.again.cpu_seconds, size.first.agents_cpu_seconds)]
    return [f"{size.agents:,}", _WAYS[size.tls], time(size.first), time(size.again), time(size.kill), *cpu]


def _memory(results: Results) -> str:
    rows = [
        [f"{size.agents:,}", _WAYS[size.tls], f"{size.first.rss_bytes / (1 << 20):.0f} MiB", f"{size.kill.rss_bytes / (1 << 20):.0f} MiB"]
        for size in results.sizes
    ]
    parts = [table(["agents", "by", "after the first call", "after the third"], rows)]
    for connections, memory in results.memory.items():
        told = ", ".join(f"{size / (1 << 20):.0f}" for size in memory)
        parts.append(
            f"One caller that kills {len(memory)} times everywhere by mutual TLS and keeps {connections} connections, MiB: {told}."
        )
    return "\n\n".join(parts)


def _odd(odd: Odd) -> str:
    return (
        f"{odd.agents:,} agents by mutual TLS, GetNode with a deadline for the whole. One takes the call and never answers, one answers "
        f"after 2 s, one runs in another boot than it is asked for.\nThey said: {_said(odd.said)}. The {odd.agents - 3:,} others had all "
        f"answered after {duration(odd.prompt_seconds, 60)}; at the deadline, after {duration(odd.seconds, 60)}, the last answer was that "
        "there is none."
    )


def _far(results: Results) -> list[str]:
    """What the numbers say of ten thousand."""
    secure = [size for size in results.sizes if size.tls]
    if len(secure) < 2:
        return []
    large, small = secure[-1], secure[0]
    first, again = (call.seconds / large.agents for call in (large.first, large.again))
    cpu = large.first.cpu_seconds / large.agents
    each = (large.kill.rss_bytes - small.kill.rss_bytes) / (large.agents - small.agents)
    held = small.kill.rss_bytes + each * _FAR
    return [
        f"### Where {_FAR:,} would break",
        "A fleet is one event loop, and so one CPU; time grows with the number of agents, as the picture shows. By mutual TLS:",
        "\n".join(
            [
                f"- **Time, connections made**: {first * 1000:.2f} ms an agent here, of which {cpu * 1000:.2f} ms are the caller's CPU: "
                f"{_FAR:,} agents need {first * _FAR:.0f} s here, and {cpu * _FAR:.0f} s where the agents have CPUs of their own. "
                f"5 s are enough for {_GOAL_SECONDS / first:,.0f} agents here, for {_GOAL_SECONDS / cpu:,.0f} there.",
                f"- **Time, connections kept**: {again * 1000:.2f} ms an agent, {again * _FAR:.1f} s for {_FAR:,}.",
                f"- **Memory**: {each / 1024:.0f} KiB for each connection kept, so {held / (1 << 20):.0f} MiB for {_FAR:,} kept ones. With "
                "the default of 256 it stays what it is with 256, and every call makes its connections again.",
                "- **Descriptors**: one for each connection kept. Where `ulimit -n` is 1,024, as often, some 1,000 are the limit, and "
                f"`connections={_FAR}` needs it raised. The default never meets it.",
                "- **Agents that are gone without a word**: each holds one of the 64 places for up to the 10 s of `timeout`. "
                f"Of {_FAR:,}, 1 % are 100: 100 x 10 s / 64 = 16 s more at worst; with `concurrency=256` 4 s.",
            ]
        ),
        f"So {_FAR:,} need no other design, but several callers: a process for each CPU with a part of the members each, the connections "
        "kept. What finding that many agents asks of an orchestrator is not in these numbers.",
    ]


def draw(results: Results, directory: Path) -> str:
    """Write the picture; returns its path beside the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    library: Any = mpl
    # The same results give the same bytes; text as text.
    with library.rc_context({"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}):
        figure: Any = Figure(figsize=(8, 3.4), layout="constrained")
        time, memory = figure.subplots(1, 2)
        for tls, colour in ((False, "#7dcea0"), (True, "#1e8449")):
            sizes = [size for size in results.sizes if size.tls is tls]
            counts = [size.agents for size in sizes]
            time.plot(counts, [size.first.seconds for size in sizes], "o-", color=colour, label=f"{_WAYS[tls]}, connections made")
            time.plot(counts, [size.kill.seconds for size in sizes], "s--", color=colour, label=f"{_WAYS[tls]}, kept")
            memory.plot(counts, [size.kill.rss_bytes / (1 << 20) for size in sizes], "o-", color=colour, label=f"{_WAYS[tls]}, all kept")
        if "256" in results.memory:
            bounded = results.memory["256"][-1] / (1 << 20)
            memory.axhline(bounded, color="#34495e", ls=":", label="mutual TLS, 1,000 agents, 256 kept")
        time.axhline(_GOAL_SECONDS, color="#c0392b", lw=1, label="goal")
        time.set_yscale("log")
        for axes, title in ((time, "all have answered, s"), (memory, "memory of the caller, MiB")):
            axes.set_xscale("log")
            axes.set_xlabel("agents")
            axes.set_title(title, fontsize=10)
            axes.legend(loc="best", frameon=False, fontsize=7)
        memory.set_ylim(0, None)
        figure.savefig(directory / "fleet.svg", metadata={"Date": None, "Creator": None})
    return f"{directory.name}/fleet.svg"


def _said(said: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in sorted(said.items(), key=lambda entry: -entry[1]))


_HOW = """### How a fleet is measured

Each agent is a gRPC server on a port of its own, with the services, limits and interceptor of `mrelease-agent`, in four processes that
share the machine with the caller. GetNode is the real one; of a kill everything is real up to where the operation would be carried out: a
seam says there that the process was released, and nobody is. Each request names the node and the boot that it is for. The caller is an
`AsyncFleet` in a process of its own, 64 calls at once; of each size there are {rounds} callers, one after the other, each of which makes
the three calls, and keeps all connections between them."""
