"""From an orchestrator's own name for something to the agent of the right node and the target there.

>>> from mrelease import resolvers
>>> with resolvers.resolve("k8s://ml/trainer-0") as placements:
...     for placement in placements:
...         with placement.client() as node:
...             print(node.kill_and_release(placement.target, node=placement.expected))

A resolver is found by the scheme of the reference, through the entry-point group ``mrelease.resolvers``: the name of the entry point is the
scheme, its value a callable without arguments that makes a ``Resolver``. Resolvers run at the caller, never in an agent.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from mrelease._client import Client
from mrelease._messages import seconds
from mrelease._models import NodeRef, Target
from mrelease._tls import TLS
from mrelease.errors import InvalidReference, MissingExtra, NoAgent, ResolutionError

__all__ = ["Agent", "GROUP", "Placement", "Reference", "Resolver", "find", "installed", "resolve"]

#: The entry-point group.
GROUP: Final = "mrelease.resolvers"
#: Seconds that a resolution may take where the caller does not say.
DEADLINE: Final = 30.0
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]{0,31})://", re.ASCII)
_LONGEST: Final = 2048


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent is, and what a caller shows it. Of a tunnel the address holds as long as the resolver is open."""

    address: str
    tls: TLS | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """One target on one node.

    ``node``: as the orchestrator calls it; ``target``: what to kill there, by an identity that is never used again, not by a name;
    ``expected``: the precondition that every request for it carries, so that another node, or another boot, does nothing; ``title``: what
    people call it. Exactly one of ``agent`` and ``problem``, why there is none, is set.
    """

    node: str
    target: Target
    expected: NodeRef
    title: str
    agent: Agent | None = None
    problem: ResolutionError | None = None

    def reach(self) -> Agent:
        """The agent of the node. Raises ``problem``."""
        if self.agent is None:
            raise self.problem or NoAgent(f"there is no agent on node {self.node}")
        return self.agent

    def client(self, *, timeout: float | timedelta = 10.0) -> Client:
        """A client of the agent of the node. Raises ``problem``."""
        agent = self.reach()
        return Client(agent.address, tls=agent.tls, timeout=timeout)


class Resolver(Protocol):
    """What a plugin is. Threads may share it; for asyncio call it in a thread (``asyncio.to_thread``)."""

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """What ``ref`` names now, at least one placement, within ``deadline`` seconds.

        What is wrong with one of several placements is its ``problem``; what is wrong with all of them is raised, as a
        ``ResolutionError``.
        """
        ...

    def close(self) -> None:
        """End what belongs to the placements, such as tunnels. Called once."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference: ``scheme://part/part?key=value``."""

    text: str
    scheme: str
    parts: tuple[str, ...]
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Split a reference; parts and values are percent-decoded. Raises InvalidReference."""
        found = _SCHEME.match(text)
        if found is None or len(text) > _LONGEST or not text.isprintable():
            raise InvalidReference(f"{text[:80]!r} is not a reference", "write scheme://..., for example k8s://namespace/pod")
        try:
            split = urlsplit(text)
            pairs = parse_qsl(split.query, keep_blank_values=True, strict_parsing=True) if split.query else []
        except ValueError:
            raise InvalidReference(f"{text!r} is not a reference", "after the ? there are key=value, with & between them") from None
        if split.fragment or len(dict(pairs)) != len(pairs):
            raise InvalidReference(f"{text!r} has a fragment, or the same key twice", "remove it; %23 stands for #")
        path = split.path.removeprefix("/").removesuffix("/")
        parts = (split.netloc, *path.split("/")) if path else (split.netloc,)
        if not all(parts):
            raise InvalidReference(f"{text!r} has an empty part", "as of a variable that is not set: write it out")
        return cls(text, found[1], tuple(map(unquote, parts)), MappingProxyType(dict(pairs)))

    def only(self, *keys: str) -> None:
        """Raises InvalidReference for a key that is not among these: what is not understood may have been meant to leave something out."""
        for key in self.query:
            if key not in keys:
                raise InvalidReference(f"{self.text!r}: {key!r} is not known", f"known are {', '.join(keys)}")


def installed() -> Mapping[str, EntryPoint]:
    """The plugins by their schemes, not loaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), reverse=True)}


def find(scheme: str) -> Resolver:
    """Make the resolver of a scheme. Raises InvalidReference where no plugin has it, MissingExtra where its libraries are not installed."""
    plugins = installed()
    if scheme not in plugins:
        known = ", ".join(sorted(plugins)) or "none"
        raise InvalidReference(f"no plugin resolves {scheme}://", f"there are {known}: install the plugin, or correct the scheme")
    try:
        resolver: Resolver = plugins[scheme].load()()
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{scheme}:// needs {error.name}", f"install what plugin {plugins[scheme].value} needs") from None
    return resolver


@contextmanager
def resolve(ref: str, *, deadline: float | timedelta = DEADLINE) -> Generator[list[Placement]]:
    """What a reference names, for as long as the block lasts. ``deadline``: seconds for the resolution. Raises ResolutionError."""
    resolver = find(Reference.parse(ref).scheme)
    try:
        yield resolver.resolve(ref, seconds("deadline", deadline))
    finally:
        resolver.close()
