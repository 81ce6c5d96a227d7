"""From the name of a node to its agent: the address, and what to show there.

>>> from mrelease.addresses import agent_of
>>> agent_of("node07")
Agent(address='node07.example.org:7443', tls=TLS(...), node='')

Asked are, one after the other until one knows the node: ``environment`` (``$MRELEASE_AGENTS``), ``file`` (the inventory), ``local`` (this
node's own socket), ``dns`` (``$MRELEASE_AGENT_TEMPLATE``), the plugins of the entry-point group ``mrelease.addresses`` by their names, and
``kubernetes``. ``$MRELEASE_ADDRESSES`` names others, or in another order: ``file,dns``.

A finder that does not know the node raises ``NoAgent``, and the next one is asked. What else it raises ends the search: where the inventory
cannot be read nobody knows that it does not name the node, and who comes next might name another agent.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Final, Protocol, cast

from mrelease import _plugins, _text
from mrelease.errors import InvalidInventory, MreleaseError, NoAgent, OrchestratorUnavailable, PluginFailed, ResolutionError
from mrelease.resolvers._placement import Agent

__all__ = ["Addresses", "Agent", "Finder", "GROUP", "SHIPPED", "VARIABLE", "agent_of", "checked", "close", "order"]

#: The entry-point group: the name of an entry point is the finder's, its value a callable without arguments that makes a ``Finder``.
GROUP: Final = "mrelease.addresses"
#: The environment variable that says who is asked, in which order: names with commas between them.
VARIABLE: Final = "MRELEASE_ADDRESSES"
#: Seconds that a search may take where the caller does not say.
DEADLINE: Final = 10.0
#: Finders of this package; each is imported when it is first asked.
SHIPPED: Final[Mapping[str, str]] = {
    "environment": "mrelease.addresses._environment:Environment",
    "file": "mrelease.addresses._file:InventoryFile",
    "local": "mrelease.addresses._local:Local",
    "dns": "mrelease.addresses._dns:Dns",
    "kubernetes": "mrelease.addresses._kubernetes:Cluster",
}
_LAST: Final = ("kubernetes",)
# Host names, addresses of hosts, and what orchestrators make of them.
_NODE: Final = re.compile(r"[A-Za-z0-9_:\[][A-Za-z0-9._:%\[\]-]{0,252}", re.ASCII)


class Finder(Protocol):
    """What a plugin is. Threads may share it; for asyncio it is called in a thread."""

    def find(self, node: str, deadline: float) -> Agent:
        """The agent of a node, within ``deadline`` seconds. Raises NoAgent, with why, where this finder does not know the node."""
        ...

    def close(self) -> None:
        """End what belongs to the addresses, such as tunnels. May be called twice."""
        ...


class Addresses:
    """The finders, each made when it is first asked, until ``close``. Threads may share it.

    ``names``: who is asked, in this order; None: as ``order`` says.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names = None if names is None else tuple(names)
        self._finders: dict[str, Finder] = {}
        self._lock = threading.Lock()

    def agent_of(self, node: str, *, deadline: float = DEADLINE) -> Agent:
        """The agent of a node. ``deadline``: seconds for all finders together.

        Raises ResolutionError: NoAgent where nobody knows the node, which says who was asked and what each said; InvalidInventory,
        OrchestratorUnavailable, MissingExtra, PluginFailed for what is wrong with the one whose turn it was.
        """
        end = time.monotonic() + deadline
        if not isinstance(node, str) or not _NODE.fullmatch(node):  # pyright: ignore[reportUnnecessaryIsInstance] -- plugins give anything
            raise NoAgent(f"{_text.printable(repr(node)[:80])} cannot be the name of a node", "it has letters, digits and . _ - : alone")
        said: list[str] = []
        for name in self._names if self._names is not None else order():
            agent = self._try(name, node, end, said)
            if agent is not None:
                return agent
        raise NoAgent(f"nobody knows the agent of node {node}: {'; '.join(said) or 'nobody was asked'}", "see docs/plugins/index.md")

    def find(self, name: str) -> Finder:
        """The finder of this name. Raises InvalidInventory where there is none, MissingExtra, PluginFailed."""
        with self._lock:
            if name not in self._finders:
                self._finders[name] = _make(name)
            return self._finders[name]

    def close(self) -> None:
        """Close every finder; addresses of tunnels are not valid any more."""
        with self._lock:
            finders, self._finders = dict(self._finders), {}
        for name, finder in finders.items():
            _plugins.closed(_title(name), finder)

    def __enter__(self) -> Addresses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, name: str, node: str, end: float, said: list[str]) -> Agent | None:
        """Ask one of them; None: it does not know the node, and ``said`` has why."""
        try:
            return self._ask(name, node, end)
        except NoAgent as error:
            said.append(f"{name}: {error}")
            return None
        except ResolutionError as error:
            if not said or type(error).__module__ != ResolutionError.__module__:
                raise
            raise type(error)(f"{error.message} (asked for node {node}, after {'; '.join(said)})", error.remedy) from None

    def _ask(self, name: str, node: str, end: float) -> Agent:
        left = end - time.monotonic()
        title = _title(name)
        if left <= 0:
            raise OrchestratorUnavailable(f"the time was over before {title} could be asked for node {node}", "give more time")
        finder = self.find(name)
        # What reads a variable or a small file needs no thread.
        call: Callable[[], Any] = lambda: finder.find(node, left)  # noqa: E731 -- what is guarded is a callable
        agent = call() if getattr(finder, "is_quick", False) and name in SHIPPED else _plugins.guarded(title, left, call)
        return checked(title, agent)


def order(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Who is asked, in this order. Raises InvalidInventory for names in ``$MRELEASE_ADDRESSES`` that nobody has."""
    plugins = [name for name in _plugins.installed(GROUP) if name not in SHIPPED]
    given = environment.get(VARIABLE, "")
    if not given:
        return (*(name for name in SHIPPED if name not in _LAST), *plugins, *_LAST)
    names = tuple(name.strip() for name in given.split(","))
    for name in names:
        if name not in SHIPPED and name not in plugins:
            known = ", ".join((*SHIPPED, *map(_text.printable, plugins)))
            raise InvalidInventory(f"${VARIABLE}: {name!r} finds no agents", f"known are {known}, with commas between them")
    return names


_default = Addresses()
atexit.register(_default.close)


def agent_of(node: str, *, deadline: float = DEADLINE) -> Agent:
    """``Addresses.agent_of`` of finders that are shared by the whole process and closed at its end."""
    return _default.agent_of(node, deadline=deadline)


def close() -> None:
    """End what the finders of the process hold, such as tunnels: its end does, too. The next ``agent_of`` makes new ones."""
    _default.close()


def _title(name: str) -> str:
    if name in SHIPPED:
        return f"finder {name}"
    plugin = _plugins.installed(GROUP).get(name)
    return f"finder {_text.printable(name)}" if plugin is None else plugin.title


def _make(name: str) -> Finder:
    if name in SHIPPED:
        module, _, attribute = SHIPPED[name].partition(":")
        return cast("Finder", getattr(import_module(module), attribute)())
    plugin = _plugins.installed(GROUP).get(name)
    if plugin is None:
        raise InvalidInventory(f"there is no finder {name!r} of agents", f"known are {', '.join(order({}))}")
    return cast("Finder", plugin.make())


def checked(title: str, agent: object) -> Agent:
    """What a finder gave, if it is an agent. Raises PluginFailed."""
    from mrelease._address import parse
    from mrelease._tls import TLS

    if not isinstance(agent, Agent) or not isinstance(agent.tls, TLS | None) or not isinstance(agent.node, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PluginFailed(f"{title} gave {type(agent).__name__}, not an Agent as documented", "tell its author")
    try:
        # Whether certificates are needed, and are there, is seen when it is connected to: a caller may have others.
        parse(agent.address, tls=agent.tls or (None if agent.address.startswith("unix:") else TLS(b"", b"", b"")))
    except (MreleaseError, AttributeError) as error:
        said = str(error) if isinstance(error, MreleaseError) else "its address is no text"
        raise PluginFailed(f"{title} gave an agent that cannot be one: {said}", "tell its author") from None
    return agent
