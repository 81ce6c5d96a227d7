"""From what ``identify`` found to a target: who a process is, as its agent can be asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from mrelease._client import Client
from mrelease._models import Process

_PIDS = 1 << 22
_INODES = 1 << 63


@dataclass(frozen=True, slots=True)
class Located:
    """A process on its node.

    ``process``: with an identity, always. ``boot_id``: of the node's kernel, so that another node does nothing. ``hostname``: what the
    node, or the container, calls itself. ``is_nested``: whether ``process.pid`` is a number of a PID namespace below the node's, and no
    container is known that it counts in.
    """

    process: Process
    boot_id: str
    hostname: str
    is_nested: bool


def located(facts: object) -> Located:
    """Read what ``identify`` found, wherever it comes from. Raises ValueError, which names the field, for everything else."""
    if not isinstance(facts, Mapping):
        raise ValueError("no facts about a process")
    known = cast("Mapping[str, Any]", facts)
    inode = _number(known, "pidfd_inode", 0, _INODES)
    container = _word(known, "container_id", 64) if known.get("is_nested") else ""
    process = Process(
        _number(known, "pid", 1, _PIDS),
        pidfd_inode=inode or None,
        start_time_ticks=_number(known, "start_time_ticks", 1, _INODES),
        container_id=container,
    )
    return Located(process, _word(known, "boot_id", 36), _word(known, "hostname", 253), bool(known.get("is_nested")) and not container)


def on_node(client: Client, found: Located) -> Process:
    """The process as the agent numbers it. Raises LookupError where that cannot be known, and ``errors.AgentError``.

    In a container that hides its own cgroup the number says nothing on the node; the inode of the pidfd is the same everywhere.
    """
    if not found.is_nested:
        return found.process
    if found.process.pidfd_inode is None:
        raise LookupError("its number counts in a container of unknown id, and pidfds have no inodes of their own before Linux 6.9")
    for info in client.list_processes(limit=None):
        if info.process.pidfd_inode == found.process.pidfd_inode:
            return replace(info.process, container_id="")
    raise LookupError("the agent of its node lists no process of this identity")


def _number(known: Mapping[str, Any], name: str, least: int, above: int) -> int:
    value = known.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < above:
        raise ValueError(f"{name} is no number from {least} to {above - 1}")
    return value


def _word(known: Mapping[str, Any], name: str, longest: int) -> str:
    value = known.get(name)
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"{name} is no text of at most {longest} characters")
    return value
