"""Whether the agent told the truth: its verdict against what the observer saw."""

from __future__ import annotations

from bench.contenders import Account
from mrelease.demo.observe import STILL_HELD, Track

#: Bytes that a counter may be off, beside that share: what each CPU keeps in stock of a cgroup's charge, and page tables.
_SLACK = 4 << 20
#: What a process is charged with beside its memory: kernel stack, page tables, its entries in the kernel's lists.
_KERNEL = 128 << 10


def wrong(account: Account, track: Track, answered: float, processes: int = 1) -> str:
    """Return what is wrong with the verdict of a call that was answered ``answered`` seconds after the observer began; empty: nothing.

    ``track`` holds every look at the victim, also one after the answer.
    """
    held, slack = _held(track, answered), max(int(track.before * STILL_HELD), _SLACK) + processes * _KERNEL
    back, said = track.before - held, account.released_bytes or 0
    true = {
        "RELEASED": held <= slack,
        "EXITED": held <= slack,
        "PARTIAL": slack < held and slack < back,
        "HELD": held > slack,
    }.get(account.verdict)
    if true is None:
        return f"gave no verdict: {account.verdict}"
    if not true:
        return f"says {account.verdict} while {held >> 20} of {track.before >> 20} MiB are held"
    if abs(said - back) > slack:
        return f"says {account.verdict} and {said >> 20} MiB back where {back >> 20} of {track.before >> 20} MiB are"
    return ""


def _held(track: Track, answered: float) -> int:
    """What was held at the first look after the answer; nothing once the victim has exited."""
    if track.exit_seconds is not None and track.exit_seconds <= answered:
        return 0
    return next((held for seconds, held in track.samples if seconds >= answered), track.held)
