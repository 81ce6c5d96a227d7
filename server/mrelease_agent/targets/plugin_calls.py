"""Plugins are called here: each call on a thread of its own, with a deadline, and of its answer nothing is believed.

A plugin can raise anything, hang, return what is no answer, or answers without end. None of that gets out of its thread: what does is plain
numbers and texts within bounds, or one of the errors of plugins.py, or PluginFailedError.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from mrelease_agent.targets.groups import malformed
from mrelease_agent.targets.plugins import (
    CONTROLLERS,
    DEADLINE,
    MAX_GROUPS,
    MAX_PROCESSES,
    MAX_SPARED,
    NAME,
    AmbiguousError,
    Found,
    FoundGroup,
    FoundProcess,
    InvalidAttributeError,
    NotHereError,
    Spare,
    TargetPlugin,
    UnavailableError,
)

#: Calls of one plugin at once. Those that hang count until they end.
MAX_CALLS: Final = 4
#: Characters of a text that a plugin wrote, and of a traceback.
_MOST_TEXT: Final = 512
_MOST_TRACE: Final = 4000
_MOST_CANDIDATES: Final = 8
#: PID_MAX_LIMIT of linux/threads.h.
_MOST_PID: Final = 4194304
_MOST_COMM: Final = 15

T = TypeVar("T")


class PluginFailedError(Exception):
    """The plugin is defective, or hangs: ``problem`` is for the caller, ``why`` for the log alone."""

    def __init__(self, problem: str, why: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.why = why


class Calls:
    """Calls of one plugin."""

    def __init__(self, kind: str, deadline: float = DEADLINE) -> None:
        self._kind = kind
        self._deadline = deadline
        self._free = asyncio.Semaphore(MAX_CALLS)
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """How many calls are past their deadline and have not ended."""
        return self._hanging

    async def find(self, plugin: TargetPlugin, attributes: Mapping[str, str]) -> Found:
        """What a target is now, checked. Raises TargetError, PluginFailedError; OSError for limits of the agent's process."""
        given = dict(attributes)
        return await self.call(lambda: checked(plugin.find(given)))

    async def call(self, work: Callable[[], T]) -> T:
        """Do ``work`` on a thread of its own; what it raises is as in find()."""
        late = PluginFailedError(f"did not answer within {self._deadline:g} s")
        if self._hanging >= MAX_CALLS:
            raise PluginFailedError(f"hangs: {self._hanging} calls of it have not ended")
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline
        try:
            await asyncio.wait_for(self._free.acquire(), self._deadline)
        except asyncio.TimeoutError:
            raise late from None
        call = _Call(loop, work, self._ended)
        try:
            call.start(f"target-{self._kind}")
        except RuntimeError:  # no thread is to be had: pids.max, RLIMIT_NPROC
            self._free.release()
            raise OSError(errno.ENOMEM, "no thread is left") from None
        try:
            return await asyncio.wait_for(asyncio.shield(call.answer), max(0.0, end - loop.time()))
        except asyncio.TimeoutError:
            self._hanging += call.is_late()
            raise late from None
        except asyncio.CancelledError:
            self._hanging += call.is_late()
            raise

    def _ended(self, late: bool) -> None:
        self._hanging -= late
        self._free.release()


class _Call(Generic[T]):
    """One call. ``ended`` is called on the loop when its thread is through, with whether somebody had given it up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T], ended: Callable[[bool], None]) -> None:
        self._loop = loop
        self._work = work
        self._ended = ended
        self._late = False
        self.answer: asyncio.Future[T] = loop.create_future()

    def start(self, name: str) -> None:
        """Raises RuntimeError where there is no thread."""
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def is_late(self) -> bool:
        """Give it up; whether it has not ended yet."""
        self._late = not self.answer.done()
        return self._late

    def _run(self) -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = self._work()
        except BaseException as raised:  # SystemExit too: nothing of it ends anything but the call
            error = _plain(raised)
        try:
            self._loop.call_soon_threadsafe(self._deliver, result, error)
        except RuntimeError:  # the loop is closed: the agent has ended meanwhile
            return

    def _deliver(self, result: Any, error: Exception | None) -> None:
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)
            self.answer.exception()  # looked at, whether or not somebody still waits
        self._ended(self._late)


def _plain(raised: BaseException) -> Exception:
    """What was raised as an exception of ours, with texts of ours: on the plugin's thread, where its own code may run."""
    try:
        if isinstance(raised, InvalidAttributeError):
            name = raised.attribute
            return InvalidAttributeError(name if _is_name(name) else "", text(raised.problem), text(raised.remedy))
        if isinstance(raised, AmbiguousError):
            candidates = [text(candidate) for candidate in islice(raised.candidates, _MOST_CANDIDATES)]
            return AmbiguousError(text(raised.problem), candidates, text(raised.remedy))
        for kind in (NotHereError, UnavailableError):
            if isinstance(raised, kind):
                return kind(text(raised.problem), text(raised.remedy))
        if isinstance(raised, PluginFailedError):
            return PluginFailedError(text(raised.problem), text(raised.why))
        return PluginFailedError("failed", "".join(traceback.format_exception(raised))[-_MOST_TRACE:])
    except BaseException:  # its words raise, too
        return PluginFailedError("failed", type(raised).__name__)


def text(given: object) -> str:
    """A text of a plugin as callers may read it: printable, and not too long."""
    if type(given) is not str:
        return ""
    cut = given if len(given) <= _MOST_TEXT else given[: _MOST_TEXT - 3] + "..."
    return "".join(c if c.isprintable() else "?" for c in cut)


def checked(found: object) -> Found:
    """An answer in plain types within the bounds. Raises PluginFailedError; whatever reading it raises."""
    if not isinstance(found, Found):
        raise PluginFailedError("gave no answer", f"find() returned {type(found).__name__}, not Found")
    return Found(
        groups=tuple(_each(found.groups, MAX_GROUPS, "cgroups", _group)),
        processes=tuple(_each(found.processes, MAX_PROCESSES, "processes", _process)),
        spare=tuple(_each(found.spare, MAX_SPARED, "programs to spare", _spare)),
    )


def _each(given: Iterable[Any], most: int, what: str, check: Callable[[Any], T]) -> dict[T, None]:
    """Each once, in order."""
    few = list(islice(iter(given), most + 1))
    if len(few) > most:
        raise PluginFailedError("gave no answer that can be used", f"find() named more than {most} {what}")
    return dict.fromkeys(map(check, few))


def _group(given: object) -> FoundGroup:
    if isinstance(given, FoundGroup):
        path, controller = given.path, given.controller
        if type(path) is str and not malformed(path) and path != "/" and type(controller) is str and controller in CONTROLLERS:
            return FoundGroup(path, controller)
    raise _rubbish("cgroup", given)


def _process(given: object) -> FoundProcess:
    if isinstance(given, FoundProcess):
        pid, start, inode = given.pid, given.start_time_ticks, given.pidfd_inode
        if type(pid) is type(start) is type(inode) is int and 1 <= pid <= _MOST_PID and 1 <= start < 1 << 63 and 0 <= inode < 1 << 63:
            return FoundProcess(pid, start, inode)
    raise _rubbish("process", given)


def _spare(given: object) -> Spare:
    if isinstance(given, Spare):
        command, uid = given.command, given.uid
        if type(command) is str and 1 <= len(command.encode()) <= _MOST_COMM and type(uid) is int and 0 <= uid < 1 << 32:
            return Spare(command, uid)
    raise _rubbish("program to spare", given)


def _is_name(given: object) -> bool:
    return type(given) is str and NAME.fullmatch(given) is not None


def _rubbish(what: str, given: object) -> PluginFailedError:
    return PluginFailedError("gave no answer that can be used", f"find() named what is no {what}: {repr(given)[:200]}")
