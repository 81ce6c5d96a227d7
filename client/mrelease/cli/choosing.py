"""Who dies first where the caller names nobody: `mrelease reclaim --by`."""

from __future__ import annotations

from pathlib import Path

import click

from mrelease import Client, NodeRef, ProcessInfo, Target

#: The agent takes so many candidates.
MOST = 1000
#: What processes may be chosen by.
BY = ("memory", "oom-score")
_PROC = Path("/proc")


def choose(client: Client, by: str) -> tuple[list[Target], NodeRef]:
    """Processes by their identity, the first to die first, and the node on which they are.

    Left out: what is protected, what would give nothing back, and the caller with its ancestors where it is on the node. Raises
    click.UsageError for ``oom-score`` of another node, and ``errors.AgentError``.
    """
    listed = client.list_processes(limit=None)
    here = _is_here(listed.node)
    own = _own() if here else set[tuple[int, int | None]]()
    found = [
        info
        for info in listed
        if not info.protection and info.reclaimable_bytes > 0 and (info.pid, info.process.start_time_ticks) not in own
    ]
    if by == "oom-score":
        if not here:
            raise click.UsageError("--by oom-score reads /proc of this machine, and the agent is on another: use --by memory")
        found = _by_oom_score(found)
    return [info.target for info in found[:MOST]], listed.node


def _by_oom_score(found: list[ProcessInfo]) -> list[ProcessInfo]:
    """The highest proc_pid_oom_score(5) first, of equals the one that holds more."""
    scores = [(_oom_score(info), info) for info in found]
    known = [(score, info) for score, info in scores if score is not None]
    if found and not known:
        raise click.UsageError(
            "--by oom-score: no process of the agent's is in this PID namespace: use --by memory, or run it where the agent is"
        )
    return [info for _, info in sorted(known, key=lambda entry: -entry[0])]


def _oom_score(info: ProcessInfo) -> int | None:
    try:
        score = int((_PROC / str(info.pid) / "oom_score").read_text())
    except (OSError, ValueError):
        return None
    # The same number in another PID namespace, or by now, is another process.
    return score if _start_time(info.pid) == info.process.start_time_ticks else None


def _is_here(node: NodeRef) -> bool:
    """Whether the node is this machine: an address may be forwarded, the boot id tells."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip() == node.boot_id
    except OSError:
        return False


def _own() -> set[tuple[int, int | None]]:
    """Pid and start time of this process and its ancestors."""
    found: set[tuple[int, int | None]] = set()
    pid = "self"
    while pid != "0" and (stat := _stat(pid)):
        found.add((int((_PROC / pid).resolve().name), int(stat[19])))
        pid = stat[1]
    return found


def _start_time(pid: int) -> int | None:
    stat = _stat(str(pid))
    return int(stat[19]) if stat else None


def _stat(pid: str) -> list[str]:
    """Fields of proc_pid_stat(5) from the third, the state, on; empty where there is no such process."""
    try:
        return (_PROC / pid / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
