"""Which process Ray means: its rows of actors, tasks and workers, read once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from mrelease._text import printable
from mrelease.errors import NotPlaced, OrchestratorUnavailable, ReferenceAmbiguous, ReferenceNotFound
from mrelease.resolvers.ray._api import Api
from mrelease.resolvers.ray._reference import RayName

# No process yet, or, of one that restarts, not any more and not yet again.
_WAITING: Final = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
_ID: Final = re.compile(r"[0-9a-f]{56}", re.ASCII)
_OVER: Final = ("FINISHED", "FAILED")


@dataclass(frozen=True, slots=True)
class Worker:
    """A process of Ray: its number on a node that Ray calls ``node_id``. ``is_alive``: as far as Ray knows."""

    node_id: str
    pid: int
    is_alive: bool


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of Ray. ``name`` is its address where nobody named it."""

    node_id: str
    name: str
    address: str

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.address or self.node_id

    @property
    def names(self) -> tuple[str, ...]:
        """What its agent may be found by, the likeliest first."""
        return tuple(dict.fromkeys(name for name in (self.name, self.address) if name))


def find(api: Api, name: RayName, end: float) -> Worker:
    """The process that a reference means now. Raises ResolutionError."""
    if name.kind == "actor":
        return _actor(api, name, end)
    if name.kind == "task":
        return _task(api, name, end)
    if name.kind == "worker":
        return _read(_only(api.rows("workers", end, worker_id=name.name), name), name, pid="pid", alive="is_alive")
    node = find_node(api, name.node, end)
    rows = api.rows("workers", end, node_id=node.node_id, pid=name.name)
    # Numbers are used again: of several workers that had this one, the living has it.
    living = [row for row in rows if row.get("is_alive") is True]
    return _read(_only(living or rows[-1:], name), name, pid="pid", alive="is_alive")


def find_node(api: Api, named: str, end: float) -> RayNode:
    """A node by its id, name or address. Raises ReferenceNotFound, ReferenceAmbiguous: several of them are on this machine."""
    # Ray refuses a filter by an id that can be none.
    keys = ("node_id",) if _ID.fullmatch(named) else ("node_name", "node_ip")
    for key in keys:
        rows = api.rows("nodes", end, **{key: named})
        # A node that was there before, under the same name, is dead.
        living = [row for row in rows if row.get("state") == "ALIVE"] or rows
        if len(living) > 1:
            raise ReferenceAmbiguous(f"Ray has {len(living)} nodes {named!r}", "name one by its id: `ray list nodes`")
        if living:
            row = living[0]
            return RayNode(_text(row, "node_id"), _text(row, "node_name"), _text(row, "node_ip"))
    raise ReferenceNotFound(f"Ray knows no node {named!r}", "`ray list nodes` has their ids, names and addresses")


def is_taken(api: Api, worker: Worker, end: float) -> bool:
    """Whether a living process of Ray has the number of this one."""
    rows = api.rows("workers", end, node_id=worker.node_id, pid=str(worker.pid))
    return any(row.get("is_alive") is True for row in rows)


def _actor(api: Api, name: RayName, end: float) -> Worker:
    if name.is_id:
        rows = api.rows("actors", end, actor_id=name.name)
    else:
        filters = {"name": name.name} | ({} if name.namespace is None else {"ray_namespace": name.namespace})
        rows = api.rows("actors", end, **filters)
        # A name is free for another actor when its actor is dead: the living has it.
        rows = [row for row in rows if row.get("state") != "DEAD"] or rows
        if len({row.get("ray_namespace") for row in rows}) > 1:
            raise ReferenceAmbiguous(f"several namespaces have an {name}", "add ?namespace=, or name it by its id: `ray list actors`")
        if len(rows) > 1:
            raise ReferenceAmbiguous(f"{len(rows)} dead actors had the name {name.name!r}", "name one by its id: `ray list actors`")
    row = _only(rows, name)
    state = row.get("state")
    if state in _WAITING:
        was = "; memory of the process that it had: ray://.../worker/ID, from `ray list workers`" if state == "RESTARTING" else ""
        raise NotPlaced(f"{name} is {state}: it has no process", f"nothing of it runs, so there is nothing to release{was}")
    return _read(row, name, pid="pid", alive=state == "ALIVE")


def _task(api: Api, name: RayName, end: float) -> Worker:
    rows = api.rows("tasks", end, task_id=name.name)
    attempts = [row for row in rows if name.attempt is None or row.get("attempt_number") == name.attempt]
    row = max(attempts, key=lambda row: _number(row, "attempt_number"), default=None)
    row = _only([] if row is None else [row], name)
    if row.get("state") in _OVER:
        # Its worker runs others by now, or is kept for them.
        raise NotPlaced(f"{name} is {row.get('state')}: its process may run another one", "name the worker: `ray list workers`")
    if not row.get("worker_pid"):
        raise NotPlaced(f"{name} is {printable(str(row.get('state'))[:40])}: it has no process", "it waits, so there is nothing to release")
    return _read(row, name, pid="worker_pid", alive=True)


def _only(rows: list[dict[str, Any]], name: RayName) -> dict[str, Any]:
    if not rows:
        raise ReferenceNotFound(
            f"Ray knows no {name}", "it forgets what is long over; `ray list actors`, `ray list workers` say what there is"
        )
    return rows[0]


def _read(row: dict[str, Any], name: RayName, *, pid: str, alive: str | bool) -> Worker:
    number = _number(row, pid)
    node_id = _text(row, "node_id")
    if not node_id or number <= 0:
        raise NotPlaced(f"Ray does not say which process {name} is or was", "nothing of it can be found by that name")
    return Worker(node_id, number, row.get(alive) is True if isinstance(alive, str) else alive)


def _number(row: dict[str, Any], key: str) -> int:
    value = row.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise OrchestratorUnavailable(f"Ray's {key} is {printable(repr(value)[:40])}, no number", "is this a Ray that this plugin knows?")
    return value


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""
