"""What every resolver has to do, checked: for authors of plugins. Needs no pytest, and works with it.

>>> class TestMine(ResolverConformance):
...     def subject(self):
...         return Subject(MyResolver, good="mine://job-7", unknown="mine://no-such-job")

Or for a resolver that is installed, on the real thing: ``python -m mrelease.resolvers.conformance mine://job-7 --unknown mine://no-such-job``.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mrelease._conformance import Check, Finding, Skip, add_tests, at_once, describe, ended, leaks, poor, silent_server
from mrelease._models import Process
from mrelease.errors import InvalidReference, MreleaseError, NoAgent, NotPlaced, ReferenceNotFound, ResolutionError
from mrelease.resolvers import Placement, Reference, Resolver, find
from mrelease.resolvers._checks import checked

__all__ = ["CHECKS", "Finding", "ResolverConformance", "Subject", "check", "silent_server"]

# Seconds for a resolution of the kit.
_DEADLINE: Final = 30.0
# Seconds given to what cannot answer.
_SHORT: Final = 1.0
# What may stand behind scheme:// as of mistakes, and of people who mean harm: options, shells, paths, formats, other alphabets.
_HOSTILE: Final = (
    *("..", "%2e%2e%2f%2e%2e%2fetc", "-rf", "--help", "%00", "%0a", "a%20b", "$(id)", "`id`", "a;b", "a|b", "*", "{0.__class__}"),
    *("%s%s%n", "%c3%a9", "%f0%9f%92%a9", "x" * 1500, "1e999", "-1", "0", "18446744073709551616", "a/b/c/d/e/f/g/h", "[::1]:1/x"),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A resolver to check, and what it is checked with.

    ``make``: makes one; ``good``: a reference to something that runs now; ``unknown``: one to nothing; ``secrets``: texts that
    nobody should see, such as a token that it was given; ``stuck``: makes one whose orchestrator does not answer (``silent_server``).
    ``names_pids``: its references name pids themselves, as ``pid://`` does; ``any_key``: every ``?key=`` means something to it.
    """

    make: Callable[[], Resolver]
    good: str
    unknown: str
    secrets: tuple[str, ...] = ()
    stuck: Callable[[], Resolver] | None = None
    names_pids: bool = False
    any_key: bool = False

    @property
    def scheme(self) -> str:
        """Of its references."""
        return Reference.parse(self.good).scheme

    def resolve(self, ref: str, deadline: float = _DEADLINE, make: Callable[[], Resolver] | None = None) -> list[Placement]:
        """What a new one gives for a reference; it is closed. Raises what it raises, and PluginFailed for what is no answer."""
        resolver = (make or self.make)()
        try:
            return checked("it", ended(lambda: resolver.resolve(ref, deadline), deadline))
        finally:
            resolver.close()


def _answers(subject: Subject) -> str:
    placements = subject.resolve(subject.good)
    nameless = [each for each in placements if not each.title or not each.title.isprintable() or not each.node.isprintable()]
    if nameless:
        return f"a placement has the title {nameless[0].title!r} and the node {nameless[0].node!r}"
    titles = [each.title for each in placements]
    return f"several placements have the title {titles[0]!r}" if len(set(titles)) < len(titles) else ""


def _once(subject: Subject) -> str:
    placements = subject.resolve(subject.good)
    places = [(each.node, each.target) for each in placements]
    return "it gave the same target on the same node twice" if len(set(places)) < len(places) else ""


def _identity(subject: Subject) -> str:
    if subject.names_pids:
        raise Skip("its references name pids: whoever writes one says which process he means")
    for each in subject.resolve(subject.good):
        target = each.target
        if isinstance(target, Process) and target.pidfd_inode is None and target.start_time_ticks is None and each.uid is None:
            return f"process {target.pid} on {each.node} has no pidfd_inode, no start_time_ticks and no uid"
    return ""


def _rubbish(subject: Subject) -> str:
    bad = [f"not-{subject.scheme}://x", f"{subject.good}#fragment", subject.good.replace("://", ":"), ""]
    if not subject.any_key:
        bad.append(f"{subject.good}{'&' if '?' in subject.good else '?'}no-such-key-of-anybody=1")
    return next((f"{ref!r}: {wrong}" for ref in bad if (wrong := _refused(subject, ref))), "")


def _refused(subject: Subject, ref: str) -> str:
    try:
        subject.resolve(ref)
    except InvalidReference as error:
        return poor(error)
    except Exception as error:
        return describe(error)
    return "it was resolved"


def _hostile(subject: Subject) -> str:
    refs = [ref for text in _HOSTILE for ref in (f"{subject.scheme}://{text}", f"{subject.good}/{text}")]
    return next((f"{ref!r}: {wrong}" for ref in refs if (wrong := _raised(subject, ref))), "")


def _raised(subject: Subject, ref: str) -> str:
    try:
        subject.resolve(ref)
    except ResolutionError as error:
        return poor(error)
    except Exception as error:
        return describe(error)
    return ""


def _unknown(subject: Subject) -> str:
    try:
        placements = subject.resolve(subject.unknown)
    except (ReferenceNotFound, NotPlaced, NoAgent) as error:
        return poor(error)
    except ResolutionError as error:
        return f"it raised {type(error).__name__}, not ReferenceNotFound or NotPlaced: {error}"
    return "" if all(each.problem is not None for each in placements) else "it was resolved, to a placement without a problem"


def _no_time(subject: Subject) -> str:
    try:
        subject.resolve(subject.good, 0.0)
    except ResolutionError as error:
        return poor(error)
    return ""


def _stuck(subject: Subject) -> str:
    if subject.stuck is None:
        raise Skip("give Subject.stuck: one whose orchestrator does not answer")
    try:
        placements = subject.resolve(subject.good, _SHORT, subject.stuck)
    except ResolutionError as error:
        return f"it raised {type(error).__name__}: {error}" if isinstance(error, InvalidReference) else poor(error)
    return "" if all(each.problem is not None for each in placements) else "it was resolved without its orchestrator"


def _closes(subject: Subject) -> str:
    unused = subject.make()
    unused.close()
    used = subject.make()
    used.resolve(subject.good, _DEADLINE)
    used.close()
    used.close()
    return ""


def _threads(subject: Subject) -> str:
    resolver = subject.make()
    try:
        found = at_once(lambda: {(each.node, each.target) for each in checked("it", resolver.resolve(subject.good, _DEADLINE))})
    finally:
        resolver.close()
    return "" if all(each == found[0] for each in found) else "threads that asked at the same time got different targets"


def _leaks(subject: Subject) -> str:
    if not subject.secrets:
        raise Skip("give Subject.secrets: texts that nobody should see")
    seen: list[object] = []
    for make, refs in ((subject.make, (subject.good, subject.unknown, f"{subject.scheme}://%00")), (subject.stuck, (subject.good,))):
        for ref in refs if make is not None else ():
            seen += _seen(subject, ref, make)
    return leaks(subject.secrets, seen)


def _seen(subject: Subject, ref: str, make: Callable[[], Resolver] | None) -> list[object]:
    try:
        return [make, *subject.resolve(ref, _DEADLINE if make is subject.make else _SHORT, make)]
    except MreleaseError as error:
        return [error]


def _hooks(subject: Subject) -> str:
    resolver = subject.make()
    try:
        for name in ("before", "after", "why"):
            hook: Any = getattr(resolver, name, None)
            if hook is None:
                continue
            if not callable(hook) or inspect.iscoroutinefunction(hook):
                return f"{name} is no ordinary method"
            try:
                inspect.signature(hook).bind([])
            except TypeError as error:
                return f"{name} does not take one argument: {error}"
    finally:
        resolver.close()
    return ""


#: Every check, in an order in which the first that fails explains most.
CHECKS: Final[tuple[Check[Subject], ...]] = (
    Check("answers", "a good reference gives placements with a node, a target, and a title of its own: people choose by it", _answers),
    Check("once", "the same target is there once: two requests for it would miss each other", _once),
    Check("identity", "a pid never travels alone: it is another's when its process has ended", _identity),
    Check(
        "rubbish", "what is no reference of it is an InvalidReference with a remedy, unknown keys too: they may limit what dies", _rubbish
    ),
    Check("hostile", "whatever is named, only a ResolutionError of one line is raised", _hostile),
    Check("unknown", "what is not there is ReferenceNotFound or NotPlaced: nobody takes it for a reference that is wrong", _unknown),
    Check("no_time", "without time it ends, too: who asks has a deadline of his own", _no_time),
    Check("stuck", "where its orchestrator does not answer it ends by the deadline, with an error that says so", _stuck),
    Check("closes", "it is closed unused, used, and twice", _closes),
    Check("threads", "threads share it", _threads),
    Check("leaks", "no secret is in an error or a placement: both are printed and logged", _leaks),
    Check("hooks", "before, after and why, where they are there, are ordinary methods that take one argument", _hooks),
)


def check(subject: Subject) -> list[Finding]:
    """Every finding. ``all(finding.passed for finding in check(...))``."""
    return [each.run(subject) for each in CHECKS]


class ResolverConformance:
    """Every check as a test of pytest: make a class below it whose name begins with Test, with ``subject``."""

    def subject(self) -> Subject:
        """What to check. Asked for each test."""
        raise NotImplementedError


add_tests(ResolverConformance, CHECKS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a resolver that is installed, on the real thing. Nothing is killed. 0: it conforms."""
    parser = argparse.ArgumentParser(prog="python -m mrelease.resolvers.conformance", description=main.__doc__)
    parser.add_argument("good", metavar="REFERENCE", help="something that runs now")
    parser.add_argument("--unknown", required=True, metavar="REFERENCE", help="something of the same form that is not there")
    given = parser.parse_args(arguments)
    try:
        scheme = Reference.parse(given.good).scheme
        find(scheme).close()
    except ResolutionError as error:
        parser.error(str(error))
    findings = check(Subject(lambda: find(scheme), given.good, given.unknown))
    print(*findings, sep="\n")
    return 0 if all(finding.passed for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
