"""The kit by which authors of resolvers test them: what conforms passes, and each defect is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mrelease import NodeRef, Process
from mrelease.errors import (
    InvalidReference,
    NoAgent,
    ReferenceNotFound,
    ResolutionError,
)
from mrelease.resolvers import Agent, Placement, Reference
from mrelease.resolvers.conformance import Subject, check

# The kit.


class Mine:
    """A resolver that conforms, but for what a test changes. ``token`` is its secret."""

    def __init__(self, token: str = "s3cret") -> None:
        self.token = token

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        del deadline
        parsed = Reference.parse(ref)
        parsed.only()
        if parsed.scheme != "mine" or len(parsed.parts) != 1:
            raise InvalidReference("it does not say which", "write mine://NAME")
        if parsed.parts[0] != "job":
            raise ReferenceNotFound("there is no such job", "look")
        return [Placement(f"n{number}", Process(7, 8), NodeRef(), f"task {number}", Agent("unix:///x")) for number in range(2)]

    def close(self) -> None:
        pass


conforming = Mine.resolve


def with_resolve(changed: Callable[[Mine, str, float], Any]) -> type[Mine]:
    return type("Changed", (Mine,), {"resolve": changed})


def subject(kind: type[Mine] = Mine, **more: Any) -> Subject:
    return Subject(kind, "mine://job", "mine://nothing", secrets=("s3cret",), **more)


def failing(kind: type[Mine], **more: Any) -> set[str]:
    return {finding.name for finding in check(subject(kind, **more)) if finding.wrong}


def test_what_conforms_passes() -> None:
    findings = check(subject())
    assert [str(finding) for finding in findings if finding.wrong] == []
    assert [finding.name for finding in findings if finding.skipped] == ["stuck"]


def _of_good(change: Callable[[Placement], Placement | list[Placement]]) -> type[Mine]:
    def changed(self: Mine, ref: str, deadline: float) -> list[Any]:
        found: list[Placement] = []
        for each in conforming(self, ref, deadline):
            made = change(each)
            found += made if isinstance(made, list) else [made]
        return found

    return with_resolve(changed)


def _careless(self: Mine, ref: str, deadline: float) -> list[Placement]:
    # Reads no more than the part that it knows.
    name = Reference.parse(ref).parts[0]
    return conforming(self, f"mine://{name}", deadline)


def _crashing(self: Mine, ref: str, deadline: float) -> list[Placement]:
    if Reference.parse(ref).parts[0] == "..":
        raise KeyError("..")
    return conforming(self, ref, deadline)


def _guessing(self: Mine, ref: str, deadline: float) -> list[Placement]:
    return conforming(self, "mine://job" if "nothing" in ref else ref, deadline)


def _blunt(self: Mine, ref: str, deadline: float) -> list[Placement]:
    try:
        return conforming(self, ref, deadline)
    except ResolutionError:
        raise NoAgent("no") from None


def _leaking(self: Mine, ref: str, deadline: float) -> list[Placement]:
    try:
        return conforming(self, ref, deadline)
    except ReferenceNotFound:
        raise ReferenceNotFound(f"GET /jobs?token={self.token}: 404", "look") from None


class Once(Mine):
    closed = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Coroutines(Mine):
    async def before(self, placements: list[Placement]) -> None: ...


class Shared(Mine):
    """Answers in the order of its calls: two threads get each other's."""

    calls = 0

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        self.calls += 1
        return [
            Placement(each.node, Process(self.calls, 8), each.expected, each.title, each.agent) for each in conforming(self, ref, deadline)
        ]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (_of_good(lambda each: Placement(each.node, Process(7), each.expected, each.title, each.agent)), "identity"),
        (_of_good(lambda each: Placement("", each.target, each.expected, each.title, each.agent)), "answers"),
        (_of_good(lambda each: Placement(each.node, each.target, each.expected, "", each.agent)), "answers"),
        (_of_good(lambda each: [each, Placement(each.node, each.target, each.expected, f"{each.title} again", each.agent)]), "once"),
        (with_resolve(_careless), "rubbish"),
        (with_resolve(_crashing), "hostile"),
        (with_resolve(_guessing), "unknown"),
        (with_resolve(_blunt), "rubbish"),
        (with_resolve(_leaking), "leaks"),
        (Once, "closes"),
        (Coroutines, "hooks"),
        (Shared, "threads"),
    ],
)
def test_each_defect_is_found(kind: type[Mine], found: str) -> None:
    assert found in failing(kind)


def test_one_that_waits_for_ever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from mrelease import _conformance

    monkeypatch.setattr(_conformance, "SLACK", 0.2)
    gate = threading.Event()

    def waiting(self: Mine, ref: str, deadline: float) -> list[Placement]:
        gate.wait()
        return []

    findings = check(subject(Mine, stuck=with_resolve(waiting)))
    gate.set()
    assert [finding.name for finding in findings if finding.wrong][:1] == ["stuck"]
    assert "had not ended" in next(finding.wrong for finding in findings if finding.wrong)
