"""What is written after ``ray://``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mrelease.errors import InvalidReference
from mrelease.resolvers._reference import Reference

#: Stands for the address that the environment names.
AUTO: Final = "auto"
_FORM: Final = (
    "write ray://HOST:PORT/actor/ID, /actor/NAME, /task/ID, /worker/ID or /node/NODE/PID; auto for the HOST:PORT of the environment"
)
# Lengths of ActorID, TaskID and UniqueID in hexadecimal digits, src/ray/common/id.h.
_DIGITS: Final = {"actor": 32, "task": 48, "worker": 56}
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?)(?::([0-9]{1,5}))?", re.ASCII)
_CONTAINER: Final = re.compile(r"[0-9a-f]{12,64}", re.ASCII)
_MOST_PIDS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class RayName:
    """A reference of Ray. ``kind``: ``actor``, ``task``, ``worker`` or ``pid``; ``name``: its id, or an actor's name.

    ``node``: of a ``pid``, what Ray calls the node: id, name or address. ``namespace``: of an actor's name; None: whichever has one of that
    name. ``attempt``: of a task; None: the last. ``container``: in which Ray's pids count; empty: on the node itself. ``agent_node``: what
    the node of the agent is called; empty: as Ray calls it.
    """

    address: str
    kind: str
    name: str
    node: str = ""
    namespace: str | None = None
    attempt: int | None = None
    container: str = ""
    agent_node: str = ""

    @classmethod
    def of(cls, ref: str) -> RayName:
        """Parse a reference. Raises InvalidReference."""
        parsed = Reference.parse(ref)
        address, kind, *rest = (*parsed.parts, "")
        rest = rest[:-1]
        if parsed.scheme != "ray" or len(rest) != {"actor": 1, "task": 1, "worker": 1, "node": 2}.get(kind):
            raise InvalidReference(f"{ref!r} is no reference of Ray", _FORM)
        _check_address(address, ref)
        parsed.only("container", "node", *{"actor": ("namespace",), "task": ("attempt",)}.get(kind, ()))
        name, node = rest[-1], rest[0] if kind == "node" else ""
        if kind == "node":
            kind = "pid"
            if not name.isdecimal() or not name.isascii() or not 0 < int(name) <= _MOST_PIDS:
                raise InvalidReference(f"{ref!r}: {name!r} is no process id", _FORM)
        elif kind != "actor" and not _is_id(kind, name):
            raise InvalidReference(f"{ref!r}: {name!r} is no {kind} id", f"it has {_DIGITS[kind]} hexadecimal digits")
        namespace, attempt = parsed.query.get("namespace"), parsed.query.get("attempt")
        if namespace is not None and _is_id(kind, name):
            raise InvalidReference(f"{ref!r}: an actor id is of no namespace", "remove ?namespace=")
        if attempt is not None and not (attempt.isdecimal() and attempt.isascii() and len(attempt) < 10):
            raise InvalidReference(f"{ref!r}: {attempt!r} is no number of an attempt", "the first is 0")
        container = parsed.query.get("container", "")
        if "container" in parsed.query and not _CONTAINER.fullmatch(container):
            raise InvalidReference(f"{ref!r}: {container!r} is no container id", "it has 12 to 64 hexadecimal digits")
        agent_node = parsed.query.get("node", "")
        if "node" in parsed.query and not agent_node:
            raise InvalidReference(f"{ref!r}: ?node= is empty", "name the node of the agent, or remove it")
        return cls(address, kind, name, node, namespace, None if attempt is None else int(attempt), container, agent_node)

    @property
    def is_id(self) -> bool:
        """Whether ``name`` is an id, not a name that people gave."""
        return _is_id(self.kind, self.name)

    def __str__(self) -> str:
        return f"pid {self.name} on {self.node}" if self.kind == "pid" else f"{self.kind} {self.name}"


def _is_id(kind: str, name: str) -> bool:
    return len(name) == _DIGITS.get(kind) and all(digit in "0123456789abcdef" for digit in name)


def _check_address(address: str, ref: str) -> None:
    found = _HOST.fullmatch(address)
    if found is None or (found[2] is not None and not 0 < int(found[2]) < 1 << 16):
        raise InvalidReference(f"{ref!r}: {address!r} is no HOST:PORT", _FORM)
