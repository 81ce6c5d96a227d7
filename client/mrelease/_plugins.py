"""Plugins of the caller, found by entry points, and calls of them that end: with an answer, or an error that names the plugin.

A plugin is other people's code. Whatever it raises, gives back or hangs in becomes a ``ResolutionError``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from inspect import iscoroutine
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from mrelease import _text
from mrelease.errors import InvalidReference, MissingExtra, MreleaseError, OrchestratorUnavailable, PluginFailed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ValueT = TypeVar("ValueT")

_LOG = logging.getLogger("mrelease.plugins")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin that is installed. ``entries``: those that have its name; where there are several nobody can say which is meant."""

    name: str
    entries: tuple[EntryPoint, ...]

    @property
    def title(self) -> str:
        """What errors call it: its name, its code, and the package that it came with."""
        return f"plugin {_text.printable(self.name)} ({', '.join(map(source, self.entries))})"

    def load(self) -> Any:
        """What the entry point names. Raises MissingExtra where a library is not installed, else PluginFailed."""
        first, *others = self.entries
        if others:
            raise PluginFailed(f"{self.title}: several packages have a plugin of this name", "uninstall all but one of them")
        try:
            return first.load()
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{self.title} needs {error.name}", "install what it needs; see `mrelease plugins`") from None
        except Exception as error:
            raise failed(self.title, error, "it cannot be imported") from None

    def make(self) -> Any:
        """Call what the entry point names. Raises MissingExtra, PluginFailed, and ResolutionError as the plugin says."""
        loaded = self.load()
        if not callable(loaded):
            raise PluginFailed(f"{self.title} is no callable that makes one", _ASK)
        try:
            return loaded()
        except MreleaseError:
            raise
        except ModuleNotFoundError as error:
            raise MissingExtra(f"{self.title} needs {error.name}", "install what it needs; see `mrelease plugins`") from None
        except Exception as error:
            raise failed(self.title, error, "it cannot be made") from None


def installed(group: str) -> dict[str, Plugin]:
    """The plugins of a group by their names, not loaded."""
    # 20 ms that most commands have no use for.
    from importlib.metadata import entry_points

    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=group):
        # The same package may be there twice, as of an editable install: that is one plugin.
        found.setdefault(entry.name, {}).setdefault(entry.value, entry)
    return {name: Plugin(name, tuple(entries.values())) for name, entries in sorted(found.items())}


def find(group: str, name: str, missing: str) -> Plugin:
    """One plugin. Raises InvalidReference with the message ``missing`` where there is none."""
    plugins = installed(group)
    if name not in plugins:
        known = ", ".join(map(_text.printable, plugins)) or "none"
        raise InvalidReference(missing, f"there are {known}: install the plugin, or correct the name; see `mrelease plugins`")
    return plugins[name]


def guarded(title: str, seconds: float, call: Callable[[], ValueT]) -> ValueT:
    """Call a plugin's function in a thread of its own, for so many seconds at most.

    Raises what the plugin raises as an MreleaseError, PluginFailed for all else, OrchestratorUnavailable when the time is over: then the
    thread goes on, and nobody waits for it, also not the interpreter's end.
    """
    future = _begin(title, call)
    try:
        return future.result(max(0.0, seconds))
    except FutureTimeout:
        raise _late(title, seconds) from None


async def guarded_async(title: str, seconds: float, call: Callable[[], ValueT]) -> ValueT:
    """``guarded`` for asyncio: other tasks go on."""
    future = asyncio.wrap_future(_begin(title, call))
    done, _ = await asyncio.wait((future,), timeout=max(0.0, seconds))
    if not done:
        future.cancel()
        raise _late(title, seconds)
    return future.result()


def failed(title: str, error: BaseException, what: str) -> PluginFailed:
    """What a plugin raised, without its text: that may hold what nobody should see. Where it was raised finds the line."""
    _LOG.debug("%s: %s", title, what, exc_info=error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return PluginFailed(f"{title}: {what} ({type(error).__name__}{where})", _ASK)


_ASK = "tell its author; logging of mrelease.plugins at level DEBUG has the traceback"


def _begin(title: str, call: Callable[[], ValueT]) -> Future[ValueT]:
    future: Future[ValueT] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(call)
            if iscoroutine(value):
                value.close()
                raise PluginFailed(f"{title} is a coroutine function, and has to be an ordinary one", _ASK)
        except MreleaseError as error:
            _end(future, error if _is_sound(error) else failed(title, error, "it failed, and cannot say why"))
        except BaseException as error:
            # SystemExit of a plugin, too.
            _end(future, failed(title, error, "it failed"))
        else:
            if future.set_running_or_notify_cancel():
                future.set_result(value)

    threading.Thread(target=run, name="mrelease-plugin", daemon=True).start()
    return future


def _is_sound(error: MreleaseError) -> bool:
    # Whoever prints it must not fail.
    try:
        return bool(str(error))
    except Exception:
        return False


def _end(future: Future[Any], error: MreleaseError) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)


def _late(title: str, seconds: float) -> OrchestratorUnavailable:
    return OrchestratorUnavailable(f"{title} gave no answer within {seconds:g} s", "is what it asks there, and reachable from here?")


def source(entry: EntryPoint) -> str:
    """Its code, and the package that it came with."""
    came = package(entry)
    return f"{_text.printable(entry.value)}{f' of {came}' if came else ''}"


def package(entry: EntryPoint) -> str:
    """The package that it came with, and its version; empty where that is not known."""
    return "" if entry.dist is None else _text.printable(f"{entry.dist.name} {entry.dist.version}")


def closed(title: str, plugin: Any, seconds: float = 5.0) -> None:
    """Close a plugin's object. What goes wrong is logged as a warning: what was wanted of it is there."""
    try:
        guarded(title, seconds, lambda: plugin.close())  # noqa: PLW0108 -- it may have none
    except MreleaseError as error:
        _LOG.warning("%s was not closed: %s", title, _text.printable(str(error)))
    except RuntimeError:
        # The interpreter ends and starts no threads any more.
        with contextlib.suppress(Exception):
            plugin.close()
