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

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from mrelease import _plugins, _text
from mrelease._messages import seconds
from mrelease.errors import InvalidReference, ResolutionError
from mrelease.resolvers._acting import CONCURRENCY, act
from mrelease.resolvers._checks import checked
from mrelease.resolvers._placement import Acted, Agent, Placement
from mrelease.resolvers._reference import Reference

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    # a reference resolved
    "resolve",
    "resolve_async",
    "kill_and_release",
    "kill_and_release_async",
    "release",
    "release_async",
    "opened",
    "Opened",
    # what a plugin is given, and gives
    "Resolver",
    "Reference",
    "Placement",
    "Agent",
    "Acted",
    # the plugins
    "find",
    "installed",
    "GROUP",
    "DEADLINE",
]

#: The entry-point group.
GROUP: Final = "mrelease.resolvers"
#: Seconds that a resolution may take where the caller does not say.
DEADLINE: Final = 30.0
# Seconds for what is only said beside an error, and for the end.
_WHY: Final = 1.0
_CLOSE: Final = 10.0


class Resolver(Protocol):
    """What a plugin is. Threads may share it; for asyncio it is called in a thread.

    Two more methods are optional, and are called only where the caller asks for it (``cancel``, ``mrelease kill --cancel``):
    ``before(placements)`` tells the orchestrator, before anything is killed, that this is to end and not to be started again (scancel,
    delete); ``after(results)`` tells it what became of each, one ``Acted`` a placement. Both within ``deadline`` of ``resolve``. And
    ``why(agent)`` may say, as a ResolutionError, why the way to an agent that it gave is not there any more; None: it is not the way.
    """

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """What ``ref`` names now, at least one placement, within ``deadline`` seconds.

        What is wrong with one of several placements is its ``problem``; what is wrong with all of them is raised, as a
        ``ResolutionError``.
        """
        ...

    def close(self) -> None:
        """End what belongs to the placements, such as tunnels. Called once; also while ``resolve`` still runs, when its time is over."""
        ...


class Opened:
    """A resolver whose calls end: by the deadline, with what they should give, or with an error that names the plugin. See ``opened``."""

    def __init__(self, scheme: str, title: str, resolver: Resolver) -> None:
        self.scheme = scheme
        self.title = title
        self._resolver = resolver

    @property
    def can_cancel(self) -> bool:
        """Whether the resolver tells its orchestrator anything."""
        return any(callable(getattr(self._resolver, hook, None)) for hook in ("before", "after"))

    def resolve(self, ref: str, deadline: float = DEADLINE) -> list[Placement]:
        """What ``ref`` names now, within ``deadline`` seconds. Raises ResolutionError."""
        return checked(self.title, _plugins.guarded(self.title, deadline, lambda: self._resolver.resolve(ref, deadline)))

    def before(self, placements: Sequence[Placement], deadline: float = DEADLINE) -> None:
        """Tell the orchestrator that these are to end. Raises ResolutionError: then nothing should be killed."""
        self._hook("before", list(placements), deadline)

    def after(self, results: Sequence[Acted], deadline: float = DEADLINE) -> None:
        """Tell the orchestrator what became of them. Raises ResolutionError."""
        self._hook("after", list(results), deadline)

    def why(self, agent: Agent) -> ResolutionError | None:
        """Why the way to this agent is not there any more; None: the resolver does not say."""
        hook: Any = getattr(self._resolver, "why", None)
        said: object = None
        if callable(hook):
            with suppress(ResolutionError):
                said = _plugins.guarded(self.title, _WHY, lambda: hook(agent))
        return said if isinstance(said, ResolutionError) else None

    def close(self) -> None:
        """End what belongs to the placements. Raises nothing; what went wrong is logged."""
        _plugins.closed(self.title, self._resolver)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hook(self, name: str, value: object, deadline: float) -> None:
        hook: Any = getattr(self._resolver, name, None)
        if callable(hook):
            _plugins.guarded(f"{self.title}, {name}", deadline, lambda: hook(value))


def installed() -> Mapping[str, EntryPoint]:
    """The plugins by their schemes, not loaded."""
    return {name: plugin.entries[0] for name, plugin in _plugins.installed(GROUP).items()}


def find(scheme: str) -> Resolver:
    """Make the resolver of a scheme.

    Raises InvalidReference where no plugin has it, MissingExtra where its libraries are not installed, PluginFailed where it is broken or
    several packages have one.
    """
    return cast("Resolver", _plugins.find(GROUP, scheme, f"no plugin resolves {scheme}://").make())


def opened(scheme: str, *, deadline: float = DEADLINE) -> Opened:
    """Make the resolver of a scheme, within ``deadline`` seconds; nothing is asked yet. Close it. Raises ResolutionError, as ``find``."""
    plugin = _plugins.find(GROUP, scheme, f"no plugin resolves {scheme}://")
    return Opened(scheme, plugin.title, cast("Resolver", _plugins.guarded(plugin.title, deadline, plugin.make)))


@contextmanager
def resolve(ref: str, *, deadline: float | timedelta = DEADLINE) -> Generator[list[Placement]]:
    """What a reference names, for as long as the block lasts. ``deadline``: seconds for the resolution. Raises ResolutionError."""
    patience = seconds("deadline", deadline)
    with opened(Reference.parse(ref).scheme, deadline=patience) as resolver:
        yield resolver.resolve(ref, patience)


@asynccontextmanager
async def resolve_async(ref: str, *, deadline: float | timedelta = DEADLINE) -> AsyncGenerator[list[Placement]]:
    """``resolve`` for asyncio: the plugin runs in a thread, other tasks go on."""
    patience = seconds("deadline", deadline)
    scheme = Reference.parse(ref).scheme
    # The guards inside end first, and say which plugin it was.
    resolver = await _plugins.guarded_async(f"plugin {scheme}", patience + 1, lambda: opened(scheme, deadline=patience))
    try:
        yield await _plugins.guarded_async(resolver.title, patience + 1, lambda: resolver.resolve(ref, patience))
    finally:
        await _plugins.guarded_async(resolver.title, _CLOSE, resolver.close)


async def kill_and_release_async(
    ref: str, *, cancel: bool = False, deadline: float | timedelta = DEADLINE, concurrency: int = CONCURRENCY, **options: Any
) -> list[Acted]:
    """Resolve a reference, and kill and release all that it names, on all of its nodes at the same time.

    ``cancel``: tell its orchestrator, before and after; where it cannot be told before nothing is killed. ``deadline``: seconds for the
    resolution, and for each time that the orchestrator is told something. ``options``: as ``AsyncClient.kill_and_release``. What went wrong
    at one of them is its ``Acted.result``. Raises ResolutionError.
    """
    return await _act(ref, True, cancel, seconds("deadline", deadline), concurrency, options)


async def release_async(ref: str, *, deadline: float | timedelta = DEADLINE, concurrency: int = CONCURRENCY, **options: Any) -> list[Acted]:
    """Release what a reference names and someone else has killed. As ``kill_and_release_async``."""
    return await _act(ref, False, False, seconds("deadline", deadline), concurrency, options)


def kill_and_release(ref: str, **options: Any) -> list[Acted]:
    """``kill_and_release_async`` for programs without asyncio."""
    return asyncio.run(kill_and_release_async(ref, **options))


def release(ref: str, **options: Any) -> list[Acted]:
    """``release_async`` for programs without asyncio."""
    return asyncio.run(release_async(ref, **options))


async def _act(ref: str, kill: bool, cancel: bool, patience: float, concurrency: int, options: Mapping[str, Any]) -> list[Acted]:
    scheme = Reference.parse(ref).scheme
    with await asyncio.to_thread(opened, scheme, deadline=patience) as resolver:
        if cancel and not resolver.can_cancel:
            raise InvalidReference(f"{resolver.title} has nothing to cancel by", "leave cancel away")
        placements = await asyncio.to_thread(resolver.resolve, ref, patience)
        tell = cancel and not options.get("validate_only")
        if tell:
            await asyncio.to_thread(resolver.before, placements, patience)
        results = await act(placements, kill=kill, concurrency=concurrency, **options)
        if tell:
            # Also where that fails the results are there.
            try:
                await asyncio.to_thread(resolver.after, results, patience)
            except ResolutionError as error:
                logging.getLogger(__name__).warning("what became of %s was not told: %s", _text.printable(ref), error)
        return results
