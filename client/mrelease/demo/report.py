"""The outcome of a duel as a table for people and as data for programs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mrelease import _text
from mrelease.demo.duel import Duel
from mrelease.demo.observe import Track
from mrelease.demo.views import LABELS

#: Version of the layout of ``data``: a field may be added, none is renamed or removed without a new number.
SCHEMA = 1
HEADER = ("KILLED BY", "MEMORY BACK", "EXITED", "STILL HELD", "PROVEN RELEASED", "VERDICT")
RIGHT = (1, 2, 3, 4)


def rows(duel: Duel) -> list[tuple[str, ...]]:
    """The table's rows, without its header. kill(2) proves nothing and gives no verdict."""
    result = duel.result
    verdicts = ("-", "-"), (_text.size(result.released_bytes), result.verdict.name) if result is not None else ("-", "call failed")
    return [
        (label, _or_more(track.back_seconds, duel), _or_more(track.exit_seconds, duel), _text.size(_held(track)), *verdict)
        for label, track, verdict in zip(LABELS, (duel.killed, duel.released), verdicts, strict=True)
    ]


def ratio(duel: Duel) -> str:
    """The duel in one sentence."""
    if duel.failure:
        return f"the agent's call failed: {duel.failure}"
    if duel.ratio is None:
        return (
            f"neither gave its memory back within {duel.limit_seconds:g} s"
            if duel.is_bound
            else "kill(2) gave its memory back, the agent did not"
        )
    if duel.is_bound:
        held = _text.size(duel.killed.held)
        return (
            f"memory back more than {_times(duel.ratio)} sooner through the agent: kill(2) still held {held} after {duel.limit_seconds:g} s"
        )
    if not duel.release_available:
        return "no difference is to be expected without process_mrelease(2)"
    return f"memory back {_times(duel.ratio)} sooner through the agent"


def footnotes(duel: Duel) -> list[str]:
    """How it was measured, and what was not as asked for."""
    machine = duel.machine
    lines = [
        f"starved by {duel.starved_by} and {duel.spinners} spinners on {machine.cpus} CPUs; Linux {machine.kernel}",
        f"observed by {duel.observed_by}; back: 95 % of it",
    ]
    if duel.result is not None and duel.result.processes and (took := duel.result.processes[0].release_duration) is not None:
        lines.append(f"by the agent's own account back in {_text.duration(took)} (proof: {duel.result.processes[0].proof})")
    return [*lines, *duel.notes]


def text(duel: Duel) -> str:
    """Everything, without colours."""
    table = ["  ".join(row).rstrip() for row in _text.table([HEADER, *rows(duel)], RIGHT)]
    return "\n".join(["", *table, "", ratio(duel), *(f"  {line}" for line in footnotes(duel))])


def data(duel: Duel) -> dict[str, Any]:
    """Everything for ``--json``; times are seconds after the kill, null for what did not happen within the limit, sizes bytes.

    - ``schema``: ``SCHEMA``
    - ``machine``: ``kernel``, ``architecture``, ``cpus`` that the demo may use, ``memory_bytes``, ``python``
    - ``scene``: ``size_bytes`` of each victim, ``limit_seconds``, ``starved_by``, number of ``spinners``, ``observed_by`` (how memory was
      measured), ``process_mrelease`` (whether the agent could call it)
    - ``victims``: one entry for each ``method``, ``kill`` and ``agent``, as the observer saw it: ``pid``, ``held_before_bytes``,
      ``held_at_end_bytes``, ``back_seconds`` (until 95 % was given back), ``exit_seconds``, ``samples`` of [seconds, bytes held]
    - ``agent``: its own account: ``verdict``, ``outcome``, ``proof``, ``released_bytes``, ``release_seconds`` from its kill,
      ``call_seconds`` as the caller saw it, ``failure`` (why the call failed; empty where it did not)
    - ``ratio`` of the two ``back_seconds`` (null where the agent's victim kept its memory) and ``ratio_is_lower_bound``
    - ``notes``: sentences on what was not as asked for
    """
    machine, result = duel.machine, duel.result
    process = result.processes[0] if result is not None and result.processes else None
    return {
        "schema": SCHEMA,
        "machine": {
            "kernel": machine.kernel,
            "architecture": machine.architecture,
            "cpus": machine.cpus,
            "memory_bytes": machine.memory_bytes,
            "python": machine.python,
        },
        "scene": {
            "size_bytes": duel.size_bytes,
            "limit_seconds": duel.limit_seconds,
            "starved_by": duel.starved_by,
            "spinners": duel.spinners,
            "observed_by": duel.observed_by,
            "process_mrelease": duel.release_available,
        },
        "victims": [
            _victim("kill", duel.pids[0], duel.killed),
            _victim("agent", duel.pids[1], duel.released),
        ],
        "agent": {
            "verdict": result.verdict.name if result is not None else None,
            "outcome": process.outcome.name if process is not None else None,
            "proof": process.proof.name if process is not None else None,
            "released_bytes": result.released_bytes if result is not None else 0,
            "release_seconds": _number(process.release_duration if process is not None else None),
            "call_seconds": duel.call_seconds,
            "failure": duel.failure,
        },
        "ratio": duel.ratio,
        "ratio_is_lower_bound": duel.is_bound,
        "notes": list(duel.notes),
    }


def _victim(method: str, pid: int, track: Track) -> dict[str, Any]:
    return {
        "method": method,
        "pid": pid,
        "held_before_bytes": track.before,
        "held_at_end_bytes": _held(track),
        "back_seconds": track.back_seconds,
        "exit_seconds": track.exit_seconds,
        "samples": [[round(seconds, 6), held] for seconds, held in track.samples],
    }


def _held(track: Track) -> int:
    # What the cgroup of an exited process still counts is the kernel's, not the victim's.
    return 0 if track.exit_seconds is not None else track.held


def _or_more(seconds: float | None, duel: Duel) -> str:
    return f"> {duel.limit_seconds:g} s" if seconds is None else _text.duration(timedelta(seconds=seconds))


def _times(ratio: float) -> str:
    return f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.1f} x"


def _number(value: timedelta | None) -> float | None:
    return None if value is None else value.total_seconds()
