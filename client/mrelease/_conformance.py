"""What the conformance kits have in common: checks with what they demand, their findings, and a server that never answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from mrelease import _plugins
from mrelease.errors import MreleaseError, ResolutionError

SubjectT = TypeVar("SubjectT")
ValueT = TypeVar("ValueT")

#: Seconds that a plugin may be late: what is checked is that it ends, not how fast this machine is.
SLACK: Final = 10.0
#: Threads that use a plugin at the same time.
THREADS: Final = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found. ``demand``: what a plugin has to do, and why; ``wrong``: what it does instead, empty where it does that;
    ``skipped``: why it was not checked."""

    name: str
    demand: str
    wrong: str = ""
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is nothing wrong; True also for what was not checked."""
        return not self.wrong

    def __str__(self) -> str:
        state = "FAIL" if self.wrong else "skip" if self.skipped else "ok"
        return f"{state:<4}  {self.name}: {self.wrong or self.skipped or self.demand}"


class Skip(Exception):  # noqa: N818 -- it is none
    """Why something was not checked."""


@dataclass(frozen=True, slots=True)
class Check(Generic[SubjectT]):
    """One demand, and the function that returns what is wrong, or raises ``Skip``."""

    name: str
    demand: str
    look: Callable[[SubjectT], str]

    def run(self, subject: SubjectT) -> Finding:
        """Look. Raises nothing."""
        try:
            return Finding(self.name, self.demand, self.look(subject))
        except Skip as skipped:
            return Finding(self.name, self.demand, skipped=str(skipped))
        except Exception as error:
            return Finding(self.name, self.demand, describe(error))


def describe(error: BaseException) -> str:
    """An exception in one line."""
    return f"it raised {type(error).__name__}: {error}"


def ended(call: Callable[[], ValueT], deadline: float) -> ValueT:
    """What a call of a plugin gave. Raises what it raised, and AssertionError where it was later than ``deadline`` and the slack."""

    def caught() -> tuple[ValueT] | Exception:
        try:
            return (call(),)
        except Exception as error:
            return error

    begun = time.monotonic()
    try:
        given = _plugins.guarded("the plugin", deadline + SLACK, caught)
    except MreleaseError:
        raise AssertionError(f"it had not ended {time.monotonic() - begun:.0f} s after it was called with {deadline:g} s") from None
    if isinstance(given, Exception):
        raise given
    return given[0]


def at_once(call: Callable[[], ValueT]) -> list[ValueT]:
    """What a call gives to several threads at the same time. Raises what one of them raised."""
    found: list[ValueT] = []
    raised: list[BaseException] = []
    barrier = threading.Barrier(THREADS)

    def run() -> None:
        barrier.wait(SLACK)
        try:
            found.append(call())
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]
    return found


def poor(error: BaseException) -> str:
    """What is wrong with an error as people will read it; empty: nothing."""
    if not isinstance(error, ResolutionError):
        return f"{describe(error)}; only ResolutionError and what is below it may be raised"
    if not error.remedy:
        return f"{type(error).__name__}({error.message!r}) has no remedy: say what to do next"
    return "" if str(error).isprintable() else f"{type(error).__name__}({error.message!r}) is not one line that can be printed"


def leaks(secrets: Sequence[str], values: Sequence[object]) -> str:
    """Which secret is in what a plugin gave or raised; empty: none."""
    for value in values:
        for number, secret in enumerate(secrets):
            if secret in str(value) or secret in repr(value):
                return f"secret {number} is in what people and logs see of a {type(value).__name__}"
    return ""


@contextmanager
def silent_server() -> Generator[str]:
    """``host:port`` of a server that takes connections and never answers, as an orchestrator that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def add_tests(kit: type, checks: Sequence[Check[Any]]) -> None:
    """Make every check a test of pytest: a method ``test_NAME`` of ``kit``, which looks at what its method ``subject`` returns."""
    for each in checks:
        setattr(kit, f"test_{each.name}", _test(each))


def _test(each: Check[Any]) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        finding = each.run(self.subject())
        if finding.wrong:
            raise AssertionError(f"{finding.demand}. But {finding.wrong}")

    test.__doc__ = each.demand
    return test
