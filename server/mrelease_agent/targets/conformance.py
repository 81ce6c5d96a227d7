"""What every target plugin has to hold, for its author's own tests::

    from mrelease_agent.targets import conformance

    def test_it_conforms() -> None:
        with a_job_that_runs() as job:
            conformance.check(lambda: Demo({}), here={"job": job.id}, pids=job.pids, absent={"job": "999999"})

The plugin is asked as an agent asks it, on threads of its own and with the agent's deadline, and its answer is read as the agent reads it.
The processes have to live for as long as that takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.procfs import ProcessGoneError, start_time
from mrelease_agent.targets.group import Group
from mrelease_agent.targets.plugin_calls import MAX_CALLS, Calls, PluginFailedError
from mrelease_agent.targets.plugins import Found, InvalidAttributeError, NotHereError, TargetError, TargetPlugin
from mrelease_agent.targets.process_facts import looked_at, user_ids

#: Values that callers send; a caller's text never reaches a plugin longer, empty, or with characters that cannot be printed.
HOSTILE: Final = (
    *("0", "-1", "+1", "1e3", "0x10", " 1", "1 ", "١٢", "9" * 256, "18446744073709551616"),
    *(".", "..", "/", "../..", "../../../etc", "a/../b", "*", "?", "[a-z]*", "~", "a\\b", "%s%n", "{0}", "{0.__class__}"),
    *("$(id)", "`id`", "; id", "| id", "' OR 1=1 --", "-rf", "--help", "a" * 256, "é" * 128, "\U0001f4a5"),
)
_UNKNOWN: Final = "no-such-attribute"
_ASKED: Final = 8 * MAX_CALLS


class DoesNotConformError(AssertionError):
    """The plugin does not hold what it has to; the message has one line for each."""


def check(
    make: Callable[[], TargetPlugin], *, here: Mapping[str, str], pids: Collection[int], absent: Mapping[str, str], kind: str = "plugin"
) -> None:
    """Try a plugin.

    ``make``: as the entry point, with its options; ``here``: attributes of a target that is here and whose processes are ``pids``, no more
    and no fewer, with every attribute that the plugin knows if that is possible; ``absent``: of one that is not.

    Raises DoesNotConformError with all that is wrong.
    """
    problems = asyncio.run(_problems(make, here, frozenset(pids), absent, kind))
    if problems:
        raise DoesNotConformError("\n".join(problems))


async def _problems(
    make: Callable[[], TargetPlugin], here: Mapping[str, str], pids: frozenset[int], absent: Mapping[str, str], kind: str
) -> list[str]:
    calls = Calls(kind)
    try:
        plugin = await calls.call(make)
    except (TargetError, PluginFailedError) as error:
        return [f"it cannot be made: {_said(error)}"]
    tries = _Tries(calls, plugin)
    await tries.finds(here, pids)
    await tries.finds_nothing(absent)
    await tries.refuses({}, "without any attribute it answers, as if everything were meant")
    await tries.refuses({**here, _UNKNOWN: "1"}, "it takes an attribute that it does not know", _UNKNOWN)
    for name in here:
        for value in HOSTILE:
            await tries.survives({**here, name: value}, pids)
    await tries.leaves_nothing_open(here)
    for pid in pids:
        if not start_time(pid):
            tries.problems.append(f"process {pid} has gone: a plugin names processes, and signals none")
    return tries.problems


class _Tries:
    def __init__(self, calls: Calls, plugin: TargetPlugin) -> None:
        self._calls = calls
        self._plugin = plugin
        self.problems: list[str] = []

    async def finds(self, attributes: Mapping[str, str], pids: frozenset[int]) -> None:
        """It finds exactly these, as often as it is asked, and by many threads at once."""
        answers = await asyncio.gather(*(self._ask(attributes) for _ in range(MAX_CALLS)))
        for found in answers:
            if isinstance(found, Exception):
                self._wrong(attributes, f"it does not find what is here: {_said(found)}")
                return
            if _members(found) != pids:
                self._wrong(attributes, f"it names {sorted(_members(found))}, and not {sorted(pids)}")
                return

    async def finds_nothing(self, attributes: Mapping[str, str]) -> None:
        """What is not here is nothing, or a NotHereError."""
        found = await self._ask(attributes)
        if not isinstance(found, NotHereError) and (isinstance(found, Exception) or _members(found)):
            said = _said(found) if isinstance(found, Exception) else f"it names {sorted(_members(found))}"
            self._wrong(attributes, f"what is not here has to be a NotHereError, or nothing: {said}")

    async def refuses(self, attributes: Mapping[str, str], problem: str, name: str = "") -> None:
        """It raises an InvalidAttributeError that names the attribute."""
        found = await self._ask(attributes)
        if not isinstance(found, InvalidAttributeError):
            self._wrong(attributes, f"{problem}: raise an InvalidAttributeError")
        elif not found.attribute or (name and found.attribute != name) or not found.problem or not found.remedy:
            self._wrong(attributes, "its InvalidAttributeError does not name the attribute, what is wrong with it, and what to do")

    async def survives(self, attributes: Mapping[str, str], pids: frozenset[int]) -> None:
        """Whatever a value is: an error of the interface, or an answer that names nobody who is not the target's."""
        found = await self._ask(attributes)
        if isinstance(found, PluginFailedError):
            self._wrong(attributes, f"it {_said(found)}")
        elif isinstance(found, Found):
            others = _members(found) - pids
            if others & {1, os.getpid(), os.getppid()}:
                self._wrong(attributes, f"it names {sorted(others)}: a value of a caller has led it out of its targets")

    async def leaves_nothing_open(self, attributes: Mapping[str, str]) -> None:
        """It closes what it opens."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(_ASKED):
            await self._ask(attributes)
        left = len(os.listdir("/proc/self/fd")) - before
        if left >= _ASKED:
            self._wrong(attributes, f"{_ASKED} questions have left {left} descriptors open")

    async def _ask(self, attributes: Mapping[str, str]) -> Found | Exception:
        try:
            return await self._calls.find(self._plugin, attributes)
        except (TargetError, PluginFailedError) as error:
            return error

    def _wrong(self, attributes: Mapping[str, str], problem: str) -> None:
        self.problems.append(f"find({dict(attributes)}): {problem}")


def _members(found: Found) -> frozenset[int]:
    """Who is named, as the agent reads it: with the start that was given, and not spared."""
    pids = {each.pid for each in found.processes if start_time(each.pid) == each.start_time_ticks}
    for each in found.groups:
        tree = cgroup_tree.tree(each.controller)
        if tree is not None:
            with contextlib.suppress(OSError), Group(tree, each.path) as group:
                pids.update(group.members())
    spared = {(spare.command, spare.uid) for spare in found.spare}
    return frozenset(pid for pid in pids if not _is_spared(pid, spared))


def _is_spared(pid: int, spared: Collection[tuple[str, int]]) -> bool:
    if not spared:
        return False
    try:
        with looked_at(pid) as proc:
            comm = Path(f"/proc/{pid}/comm").read_text(errors="replace").removesuffix("\n")
            uids = user_ids(proc)
            return any(comm == command and uids == frozenset((uid,)) for command, uid in spared)
    except (ProcessGoneError, OSError):
        return False


def _said(error: Exception) -> str:
    why = f"\n{error.why}" if isinstance(error, PluginFailedError) and error.why else ""
    return f"{type(error).__name__}: {error.args[0] if error.args else ''}{why}"
