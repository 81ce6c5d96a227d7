"""The section of one node in docs/performance.md, made from the results alone."""

from __future__ import annotations

import statistics

from bench.cases import CASES
from bench.contenders import AGENT, EARLYOOM, KILL, TCP
from bench.markdown import facts, table
from bench.results import CaseResult, Footprint, Ghz, Latency, Measurement, Results, Run
from bench.rounds import Case
from bench.statistics_of import Spread, duration


def section(results: Results, pictures: dict[str, str]) -> str:
    """The section; ``pictures`` maps the name of a case, or ``medians``, to the file's path beside the page."""
    parts = [
        "## On one node",
        "Measured by `make bench`; the raw numbers are in [performance.json](performance.json).",
        *_runs(results, results.runs()),
        _HOW,
    ]
    if "medians" in pictures:
        parts.append(f"![Time to memory back, medians]({pictures['medians']})")
    known = {case.name: case for case in CASES}
    for found in results.cases:
        parts += _case(known[found.name], found, pictures)
    parts += _rpc(results, pictures)
    if results.footprint is not None:
        parts += _footprint(results.footprint)
    return "\n\n".join(parts) + "\n"


def _runs(results: Results, runs: list[Run]) -> list[str]:
    """What the numbers are of: what all runs have in common, then in which they differ."""
    told = [{"command": f"`{run.command}`", "date": run.date, **run.machine} for run in runs]
    names = list(dict.fromkeys(name for one in told for name in one))
    common = [name for name in names if len({one.get(name) for one in told}) == 1]
    parts = [facts((name, told[0][name]) for name in common)] if common else []
    if len(runs) > 1:
        differing = [name for name in names if name not in common]
        rows = [
            [", ".join(_measured(results, run)), *(one.get(name, "-") for name in differing)] for run, one in zip(runs, told, strict=True)
        ]
        parts.append(table(["measured", *differing], rows))
    return parts


def _measured(results: Results, run: Run) -> list[str]:
    names = [case.name for case in results.cases if case.run == run]
    others = {"rpc": results.rpc, "callers": results.callers, "stuck": results.stuck, "ghz": results.ghz, "footprint": results.footprint}
    return names + [name for name, part in others.items() if part is not None and part.run == run]


def _case(case: Case, found: CaseResult, pictures: dict[str, str]) -> list[str]:
    heading = f"### {case.title}"
    if not found.measurements:
        return [heading, f"Not measured: {found.skipped}."]
    size = f"{found.size_bytes / (1 << 30):.3g} GiB" if found.size_bytes >= 1 << 30 else f"{found.size_bytes >> 20} MiB"
    rounds = f"{found.rounds} round{'s' * (found.rounds > 1)}"
    about = f"{case.about} Victim of {size}, held back by {found.how}; {rounds}, each victim watched for {found.limit:g} s at most."
    about += " It cannot exit." if case.until == "back" else ""
    about += f" All of it took {found.took_seconds:.0f} s. Observed by {found.observed_by}."
    header = ["contender", "rounds", "memory back", "exit", "by its own account", "call", "kill(2) / it", "held at the end, most", "says"]
    rows = [_row(found, name) for name in found.contenders]
    parts = [heading, about, table(header, rows)]
    if found.missing:
        parts.append("Not there: " + "; ".join(f"{name} ({why})" for name, why in found.missing.items()) + ".")
    if case.name in pictures:
        parts.append(f"![Memory still held over time, first round]({pictures[case.name]})")
    return parts


def _row(found: CaseResult, name: str) -> list[str]:
    measurements = found.by(name)
    own = [m.own_release_seconds for m in measurements]
    calls = [m.call_seconds for m in measurements]
    ratio = found.ratio(KILL, name) if name != KILL else None
    return [
        name,
        str(len(measurements)),
        found.back(name).text(found.limit),
        found.exited(name).text(found.limit),
        Spread.of(own).text(found.limit) if any(value is not None for value in own) else "-",
        Spread.of(calls).text(found.limit) if name in (AGENT, TCP) else "-",
        "1" if name == KILL else str(ratio) if ratio is not None else "-",
        f"{max(m.left_bytes for m in measurements) >> 20} MiB",
        _all_say(measurements),
    ]


def _all_say(measurements: list[Measurement]) -> str:
    """Everything that was said, each once, the most frequent first, with its number where there is more than one thing."""
    said = [", ".join(filter(None, (m.verdict, m.boost))) for m in measurements]
    counts = sorted({text: said.count(text) for text in said if text}.items(), key=lambda item: -item[1])
    return "; ".join(text if len(counts) == 1 else f"{text} ({count})" for text, count in counts) or "-"


def _rpc(results: Results, pictures: dict[str, str]) -> list[str]:
    parts: list[str] = []
    if (cost := results.rpc) is not None:
        about = (
            f"{cost.call.calls} sleeping victims of 1 MiB, one after another, on one channel by each way; with each one Health Check, "
            "before and after the kill in turns, for the first call after a while is slower than the next. The release itself is the time "
            "from the signal to the proof, as the answer says it."
        )
        rows = [
            _latency("Health Check", cost.check, cost.tcp_check),
            _latency("KillAndRelease", cost.call, cost.tcp_call),
            _latency("KillAndRelease over the release itself", cost.over, cost.tcp_over),
        ]
        parts += ["### Cost of the call", about, table(["call", "Unix, p50", "Unix, p99", "TCP, p50", "TCP, p99"], rows)]
        parts += _picture("What calls take", "rpc", pictures)
    if (trust := results.guarded) is not None:
        about = (
            f"{trust.plain.calls} sleeping victims of 1 MiB by each way, in turns: plaintext on loopback, mutual TLS 1.3 with an access "
            "policy, and the same with the audit log, which is on the disk before the signal."
        )
        rows = [
            ["plaintext", *_both(trust.plain), *_both(trust.plain_over)],
            ["mutual TLS, policy", *_both(trust.trusted), *_both(trust.trusted_over)],
            ["mutual TLS, policy, audit", *_both(trust.audited), *_both(trust.audited_over)],
        ]
        header = ["KillAndRelease", "p50", "p99", "over the release, p50", "over the release, p99"]
        parts += ["### Cost of trust", about, table(header, rows)]
    if (many := results.callers) is not None:
        about = (
            f"{many.callers} callers at once, each with its next call as soon as the last one has been answered, all from one asyncio "
            f"client on one channel; {len(many.kill)} rounds. The echo server is a bare grpc.aio server ([echo_server.py](../tests/bench/"
            "echo_server.py)); victims are of 1 MiB and share the CPUs with agent and client when they exit."
        )
        rows = [
            [what, *(f"{value:.0f}" for value in (statistics.median(rates), min(rates), max(rates)))]
            for what, rates in (("echoes", many.echo), ("Health Checks", many.check), ("KillAndRelease", many.kill))
        ]
        parts += [f"### {many.callers} callers", about, table(["calls a second", "median", "least", "most"], rows)]
        parts += _picture("Calls a second", "callers", pictures)
    if (stuck := results.stuck) is not None:
        parts.append("### Health while reaps are stuck")
        if stuck.idle is None or stuck.stuck is None:
            parts.append(f"Not measured: {stuck.skipped}.")
        else:
            rows = [
                ["none", *_both(stuck.idle)],
                [str(stuck.reaps), *_both(stuck.stuck)],
            ]
            about = (
                f"{stuck.idle.calls} Health Checks one after another, without and with reaps that the kernel does not let go: a thread of "
                "each victim holds mmap_lock for writing and waits for a FUSE file system."
            )
            parts += [about, table(["reaps stuck", "p50", "p99"], rows), *_picture("Health Checks", "stuck", pictures)]
    if results.ghz is not None:
        parts += _ghz(results.ghz)
    return parts


def _ghz(found: Ghz) -> list[str]:
    heading = "### From Go"
    if found.skipped:
        return [heading, f"Not measured: {found.skipped}."]
    calls = found.rows[0].sdk.latency.calls
    about = (
        "The same calls by ghz, which is written in Go, and by the SDK (`AsyncClient`), each in a process of its own with one connection, "
        f"in turns; {found.rounds} rounds, {calls} by each in all. Nothing is killed: KillAndRelease has `validate_only`, which makes "
        "every check. Client and agent share the CPUs."
    )
    rows = [
        [
            row.way, row.method, str(row.callers), *_both(row.ghz.latency), f"{row.ghz.rate:.0f}", *_both(row.sdk.latency),
            f"{row.sdk.rate:.0f}", f"{row.sdk.latency.p50 / row.ghz.latency.p50:.2f}", f"{row.sdk.rate / row.ghz.rate:.2f}",
        ]
        for row in found.rows
    ]  # fmt: skip
    header = [
        "by",
        "call",
        "callers",
        "ghz: p50",
        "p99",
        "calls a second",
        "SDK: p50",
        "p99",
        "calls a second",
        "SDK / ghz: p50",
        "calls a second",
    ]
    return [heading, about, table(header, rows)]


def _footprint(idle: Footprint) -> list[str]:
    rows = [
        ["resident memory", f"{idle.rss_bytes / (1 << 20):.1f} MiB"],
        ["CPU", f"{idle.cpu_share * 100:.2f} % of one CPU over {idle.idle_seconds:g} s"],
        ["threads", str(idle.threads)],
        ["ready after", f"{duration(idle.ready_seconds, 1)} (median of {idle.starts} starts)"],
    ]
    return ["### Idle agent", table(["", ""], rows)]


def _picture(what: str, name: str, pictures: dict[str, str]) -> list[str]:
    return [f"![{what}]({pictures[name]})"] if name in pictures else []


def _latency(what: str, unix: Latency, tcp: Latency) -> list[str]:
    return [what, *_both(unix), *_both(tcp)]


def _both(found: Latency) -> list[str]:
    return [duration(found.p50, 60), duration(found.p99, 60)]


_HOW = f"""### How it is measured

The contenders take turns in every round, each on a fresh victim, each round beginning with another one; who has twice not been done within
the limit sits out the other rounds.

- kill(2) sends SIGKILL and nothing else.
- The C program ([floor.c](../tests/bench/floor.c)) makes the system calls of the kernel's own selftest and nothing else. With boost, it
  moves the victim into a cgroup of the most CPU weight first, sees that it is there, and takes class and affinity off its threads.
- The agent is called through the SDK over its Unix socket, or over loopback TCP in plain text.
- `ctr task kill` sends SIGKILL through containerd, its shim and runc. Its victim is the same program in the same cgroup, as a container.
- {EARLYOOM} is told that 99 % free is low memory, and to ignore every process but the victim. Its clock begins with its line "sending
  SIGKILL", so that finding the victim does not count.

All of them run at the agent's priority, and so does who calls the agent. One observer, which is none of them, samples what the victim still
holds and when its pidfd says that it has exited; memory is back when no more than 5 % of what the victim held is left. Times begin with the
contender's first step: the signal, the move, or the call of the SDK. Numbers are medians, with the least and the most in brackets. Every
verdict of the agent is compared with what the observer saw at the moment of the answer."""
