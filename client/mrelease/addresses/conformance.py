"""What every finder of agents has to do, checked: for authors of plugins, as ``mrelease.resolvers.conformance``.

>>> class TestMine(FinderConformance):
...     def subject(self):
...         return Subject(MyFinder, known="node7", unknown="no-such-node")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mrelease._conformance import Check, Finding, Skip, add_tests, at_once, describe, ended, leaks, poor, silent_server
from mrelease.addresses import Agent, Finder, checked
from mrelease.errors import MreleaseError, NoAgent, ResolutionError

__all__ = ["CHECKS", "Finding", "FinderConformance", "Subject", "check", "silent_server"]

_DEADLINE: Final = 10.0
_SHORT: Final = 1.0
_HOSTILE: Final = ("..", "a" * 253, "a..b", "-", "1.2.3.4.5", "::", "[::1", "%41", "xn--", "a.", "_", "NODE", "0", "fe80::1%eth0")


@dataclass(frozen=True, slots=True)
class Subject:
    """A finder to check.

    ``make``: makes one; ``known``: a node that it knows; ``unknown``: one that it does not; ``secrets``, ``stuck``: as for resolvers.
    """

    make: Callable[[], Finder]
    known: str
    unknown: str
    secrets: tuple[str, ...] = ()
    stuck: Callable[[], Finder] | None = None

    def find(self, node: str, deadline: float = _DEADLINE, make: Callable[[], Finder] | None = None) -> Agent:
        """What a new one gives for a node; it is closed. Raises what it raises, and PluginFailed for what is no agent."""
        finder = (make or self.make)()
        try:
            return checked("it", ended(lambda: finder.find(node, deadline), deadline))
        finally:
            finder.close()


def _answers(subject: Subject) -> str:
    subject.find(subject.known)
    return ""


def _unknown(subject: Subject) -> str:
    try:
        agent = subject.find(subject.unknown)
    except NoAgent as error:
        return "" if str(error) and str(error).isprintable() else "its NoAgent does not say why, in one line"
    except ResolutionError as error:
        return f"it raised {type(error).__name__}, which ends the search: {error}"
    return f"it found {agent.address}"


def _hostile(subject: Subject) -> str:
    return next((f"{node!r}: {wrong}" for node in _HOSTILE if (wrong := _raised(subject, node))), "")


def _raised(subject: Subject, node: str) -> str:
    try:
        subject.find(node)
    except NoAgent:
        return ""
    except ResolutionError as error:
        return poor(error)
    except Exception as error:
        return describe(error)
    return ""


def _stuck(subject: Subject) -> str:
    if subject.stuck is None:
        raise Skip("give Subject.stuck: one where whoever it asks does not answer")
    try:
        subject.find(subject.known, _SHORT, subject.stuck)
    except NoAgent as error:
        return f"it raised NoAgent, as if it had been told that there is none: {error}"
    except ResolutionError as error:
        return poor(error)
    return "it found an agent all the same"


def _closes(subject: Subject) -> str:
    subject.make().close()
    used = subject.make()
    used.find(subject.known, _DEADLINE)
    used.close()
    used.close()
    return ""


def _threads(subject: Subject) -> str:
    finder = subject.make()
    try:
        found = at_once(lambda: finder.find(subject.known, _DEADLINE))
    finally:
        finder.close()
    return "" if all(each == found[0] for each in found) else "threads that asked at the same time got different agents"


def _leaks(subject: Subject) -> str:
    if not subject.secrets:
        raise Skip("give Subject.secrets: texts that nobody should see")
    seen: list[object] = []
    for make, node in ((subject.make, subject.known), (subject.make, subject.unknown), (subject.stuck, subject.known)):
        if make is not None:
            seen.append(_seen(subject, node, make))
    return leaks(subject.secrets, seen)


def _seen(subject: Subject, node: str, make: Callable[[], Finder]) -> object:
    try:
        return subject.find(node, _SHORT if make is subject.stuck else _DEADLINE, make)
    except MreleaseError as error:
        return error


#: Every check, in an order in which the first that fails explains most.
CHECKS: Final[tuple[Check[Subject], ...]] = (
    Check("answers", "a node that it knows gives an Agent with an address that can be one", _answers),
    Check("unknown", "a node that it does not know is NoAgent, with why: the next finder is asked then, and only then", _unknown),
    Check("hostile", "whatever a node is called, only a ResolutionError of one line is raised", _hostile),
    Check("stuck", "where whoever it asks does not answer it ends by the deadline, and not with NoAgent: nobody knows", _stuck),
    Check("closes", "it is closed unused, used, and twice", _closes),
    Check("threads", "threads share it", _threads),
    Check("leaks", "no secret is in an error or an agent: both are printed and logged", _leaks),
)


def check(subject: Subject) -> list[Finding]:
    """Every finding."""
    return [each.run(subject) for each in CHECKS]


class FinderConformance:
    """Every check as a test of pytest: make a class below it whose name begins with Test, with ``subject``."""

    def subject(self) -> Subject:
        """What to check. Asked for each test."""
        raise NotImplementedError


add_tests(FinderConformance, CHECKS)
