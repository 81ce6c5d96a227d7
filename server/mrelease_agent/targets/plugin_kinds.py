"""The kinds of targets that the configuration names, each with its plugin or why it has none. No other plugin is ever imported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from mrelease_agent.targets.plugin_calls import MAX_CALLS, Calls, PluginFailedError, text
from mrelease_agent.targets.plugins import DEADLINE, GROUP, Found, TargetError, TargetPlugin, UnavailableError
from mrelease_agent.telemetry.logs import event

_log = logging.getLogger("mrelease")
_BROKEN: Final = "look at the agent's log, which says why, and mend or update the plugin"


@dataclass(frozen=True, slots=True)
class Offer:
    """Whether the agent has a kind; ``reason``: why not, or whose plugin it is; ``remedy``: what to change."""

    kind: str
    available: bool
    reason: str
    remedy: str = ""


class NoSuchKindError(Exception):
    """The agent does not have this kind of target; ``offer`` says why."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(offer.kind)
        self.offer = offer


class Kinds:
    """The plugins of an agent. Belongs to its event loop."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._calls: dict[str, Calls] = {}
        self._plugins: dict[str, TargetPlugin] = {}
        self._offers: dict[str, Offer] = {}

    async def load(self, kinds: Sequence[str], options: Mapping[str, Mapping[str, str]]) -> None:
        """Import and make the plugins of these kinds. What does not work is an offer that says so, and a warning in the log."""
        for kind in kinds:
            given = options.get(kind, {})
            await self.add(kind, partial(_make, kind, given))

    async def add(self, kind: str, make: Callable[[], tuple[TargetPlugin, str]]) -> None:
        """Have one kind, by a plugin and whose it is."""
        calls = self._calls[kind] = Calls(kind, self._deadline)
        try:
            plugin, whose = await calls.call(make)
        except TargetError as error:
            self._offers[kind] = Offer(kind, False, error.problem or "does not work here", error.remedy)
        except PluginFailedError as error:
            event(_log, logging.ERROR, "target plugin failed", kind=kind, what=f"to load it {error.problem}", why=error.why or None)
            self._offers[kind] = Offer(kind, False, f"the plugin could not be loaded: it {error.problem}", _BROKEN)
        else:
            self._plugins[kind] = plugin
            self._offers[kind] = Offer(kind, True, whose)
            return
        offer = self._offers[kind]
        event(_log, logging.WARNING, "target kind off", kind=kind, why=offer.reason, remedy=offer.remedy or None)

    def __iter__(self) -> Iterator[Offer]:
        return map(self.offer, self._offers)

    def offer(self, kind: str) -> Offer:
        """Whether the agent has a kind now."""
        offer = self._offers.get(kind)
        if offer is None:
            have = ", ".join(self._offers) or "none"
            return Offer(
                kind, False, f"it is not among those of this agent: {have}", "name it in the agent's configuration (target_plugins)"
            )
        if offer.available and self._calls[kind].hanging >= MAX_CALLS:
            return Offer(kind, False, "the plugin hangs: none of its calls ends", "find out what it waits for, and start the agent again")
        return offer

    def check(self, kind: str) -> None:
        """Raise NoSuchKindError where the agent does not have it."""
        offer = self.offer(kind)
        if not offer.available:
            raise NoSuchKindError(offer)

    async def find(self, kind: str, attributes: Mapping[str, str]) -> Found:
        """What a target is now. Raises NoSuchKindError, TargetError; PluginFailedError, which is logged; OSError for limits."""
        self.check(kind)
        try:
            return await self._calls[kind].find(self._plugins[kind], attributes)
        except PluginFailedError as error:
            event(_log, logging.ERROR, "target plugin failed", kind=kind, what=error.problem, why=error.why or None)
            raise


def _make(kind: str, options: Mapping[str, str]) -> tuple[TargetPlugin, str]:
    """Import the plugin of a kind and make it; and whose it is. Runs the plugin's code: on a thread of Calls."""
    from importlib.metadata import entry_points  # only where plugins are configured: it is some 2 MiB

    found = list({entry.value: entry for entry in entry_points(group=GROUP) if entry.name == kind}.values())
    if not found:
        raise UnavailableError("no package that is installed has it", f"install its plugin where the agent is (entry-point group {GROUP})")
    if len(found) > 1:
        values = ", ".join(sorted(entry.value for entry in found))
        raise UnavailableError(f"several packages have it: {values}", "leave one of them installed")
    (entry,) = found
    try:
        factory = entry.load()
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{entry.value} needs the module {error.name}", "install what the plugin needs") from error
    plugin: TargetPlugin = factory(MappingProxyType(dict(options)))
    if not callable(getattr(plugin, "find", None)):
        raise PluginFailedError("is no plugin", f"{entry.value} made {type(plugin).__name__}, which has no find()")
    return plugin, text(f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value)
