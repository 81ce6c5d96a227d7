"""What a plugin of targets can do wrong, and what of it gets out: nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import pytest

from mrelease_agent.targets.plugin_calls import MAX_CALLS, Calls, PluginFailedError, checked
from mrelease_agent.targets.plugin_kinds import Kinds, NoSuchKindError, Offer
from mrelease_agent.targets.plugins import (
    MAX_PROCESSES,
    AmbiguousError,
    Found,
    FoundGroup,
    FoundProcess,
    InvalidAttributeError,
    NotHereError,
    Spare,
    TargetError,
    TargetPlugin,
    UnavailableError,
    only,
    required,
)
from support import lab
from support.patience import FACTOR


class Plugin:
    """A plugin that does what it is told."""

    def __init__(self, find: Callable[[Mapping[str, str]], Any]) -> None:
        self.find = find


def ask(find: Callable[[Mapping[str, str]], Any], attributes: Mapping[str, str] | None = None, deadline: float = 60.0) -> Found:
    return asyncio.run(Calls("demo", deadline).find(Plugin(find), attributes or {"job": "1"}))


def endless() -> Generator[FoundProcess]:
    pid = 1
    while True:
        pid += 1
        yield FoundProcess(pid % 4000000 + 1, pid)


class Liar(str):
    """A text that is another one each time."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class BombError(Exception):
    """Whose words raise too."""

    def __str__(self) -> str:
        raise SystemExit("bomb")


RUBBISH: list[Any] = [
    None,
    [],
    [FoundProcess(2, 3)],
    {"processes": []},
    Found(processes=None),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Found(processes=[4711]),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Found(processes=[FoundProcess(0, 1)]),
    Found(processes=[FoundProcess(-1, 1)]),
    Found(processes=[FoundProcess(4194305, 1)]),
    Found(processes=[FoundProcess(2, 0)]),
    Found(processes=[FoundProcess(2, 3, -1)]),
    Found(processes=[FoundProcess("2", 3)]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Found(processes=[FoundProcess(True, 3)]),
    Found(processes=[FoundProcess(2, 3.0)]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Found(processes=endless()),
    Found(groups=[FoundGroup("")]),
    Found(groups=[FoundGroup("/")]),
    Found(groups=[FoundGroup("relative")]),
    Found(groups=[FoundGroup("/a/../b")]),
    Found(groups=[FoundGroup("/a\n")]),
    Found(groups=[FoundGroup("/\ud800")]),
    Found(groups=[FoundGroup("/a" * 4096)]),
    Found(groups=[FoundGroup(Liar("/a"))]),
    Found(groups=[FoundGroup("/a", "devices")]),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Found(groups=(FoundGroup(f"/{number}") for number in range(5000))),
    Found(groups="/a"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Found(spare=[Spare("")]),
    Found(spare=[Spare("a name of more than fifteen bytes")]),
    Found(spare=[Spare("x", -1)]),
    Found(spare=[("x", 0)]),  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize("answer", RUBBISH, ids=range(len(RUBBISH)))
def test_what_is_no_answer_is_a_failure_of_the_plugin(answer: Any) -> None:
    with pytest.raises(PluginFailedError, match=r"^(gave no answer|failed)"):
        ask(lambda _: answer)


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("secret"),
        OSError(24, "secret"),
        SystemExit(3),
        KeyboardInterrupt(),
        MemoryError(),
        RecursionError(),
        BombError(),
        StopIteration(),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_whatever_it_raises_ends_its_call_alone_and_is_for_the_log_alone(raised: BaseException) -> None:
    def find(_: Mapping[str, str]) -> Found:
        raise raised

    with pytest.raises(PluginFailedError) as failed:
        ask(find)
    assert failed.value.problem == "failed"
    assert type(raised).__name__ in failed.value.why
    assert ask(lambda _: Found()) == Found()


def test_an_endless_recursion_ends_its_call_alone() -> None:
    def find(attributes: Mapping[str, str]) -> Found:
        return find(attributes)

    with pytest.raises(PluginFailedError) as failed:
        ask(find)
    assert "RecursionError" in failed.value.why


@pytest.mark.parametrize("kind", [NotHereError, UnavailableError])
def test_its_errors_reach_the_caller_in_readable_words(kind: type[TargetError]) -> None:
    def find(_: Mapping[str, str]) -> Found:
        raise kind("is\x1b[31m not\nhere" + "x" * 4000, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    with pytest.raises(kind) as told:
        ask(find)
    assert told.value.problem.isprintable()
    assert len(told.value.problem) <= 512
    assert told.value.remedy == ""


def test_an_attribute_is_named_only_by_what_can_be_its_name() -> None:
    for name, expected in (("job", "job"), ('job"] is fine; target["x', ""), ("", ""), (None, "")):

        def find(_: Mapping[str, str], name: Any = name) -> Found:
            raise InvalidAttributeError(name, "is wrong", "mend it")

        with pytest.raises(InvalidAttributeError) as told:
            ask(find)
        assert told.value.attribute == expected


def test_candidates_are_few_and_readable() -> None:
    def find(_: Mapping[str, str]) -> Found:
        raise AmbiguousError("is two", (f"n{number}\n" for number in range(100)), "say which")

    with pytest.raises(AmbiguousError) as told:
        ask(find)
    assert told.value.candidates == tuple(f"n{number}?" for number in range(8))


def test_an_answer_comes_out_in_plain_types_and_each_once() -> None:
    processes = [FoundProcess(2, 3), FoundProcess(2, 3), FoundProcess(4, 5, 6)]
    found = checked(Found(groups=iter([FoundGroup("/a/b", "freezer")] * 2), processes=processes, spare=[Spare("slurmstepd", 0)]))
    assert found.groups == (FoundGroup("/a/b", "freezer"),)
    assert found.processes == (FoundProcess(2, 3), FoundProcess(4, 5, 6))
    assert found.spare == (Spare("slurmstepd", 0),)
    assert (
        len(tuple(checked(Found(processes=[FoundProcess(2, start) for start in range(1, MAX_PROCESSES + 1)])).processes)) == MAX_PROCESSES
    )


def test_a_plugin_cannot_change_what_the_next_is_asked() -> None:
    attributes = {"job": "1"}

    def find(given: Mapping[str, str]) -> Found:
        given.clear()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        return Found()

    ask(find, attributes)
    assert attributes == {"job": "1"}


def test_the_helpers_name_the_attribute_and_the_remedy() -> None:
    only({"job": "1"}, "job", "step")
    with pytest.raises(InvalidAttributeError) as told:
        only({"jib": "1"}, "job", "step")
    assert (told.value.attribute, told.value.remedy) == ("jib", "known are job, step")
    assert required({"job": "1"}, "job", "2") == "1"
    with pytest.raises(InvalidAttributeError) as told:
        required({}, "job", "1234")
    assert (told.value.attribute, told.value.problem) == ("job", "is missing")


class Hanging:
    """A plugin whose calls hang until they are let go; then they answer."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0

    def find(self, _: Mapping[str, str]) -> Found:
        self.calls += 1
        self.go.wait()
        return Found()


async def until(true: Callable[[], object]) -> None:
    """Let the loop and the threads of the plugin go on until it is so."""
    end = time.monotonic() + 30 * FACTOR
    while not true():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


async def test_calls_that_hang_are_given_up_and_bounded_and_it_recovers() -> None:
    plugin, calls = Hanging(), Calls("demo", 0.05)
    try:
        for _ in range(MAX_CALLS):
            with pytest.raises(PluginFailedError, match="did not answer within"):
                await calls.find(plugin, {"job": "1"})
        assert calls.hanging == MAX_CALLS
        with pytest.raises(PluginFailedError, match="hangs"):
            await calls.find(plugin, {"job": "1"})
        assert plugin.calls == MAX_CALLS, "no further thread was made for it"
    finally:
        plugin.go.set()
    await until(lambda: not calls.hanging)
    assert await Calls("demo").find(plugin, {"job": "1"}) == Found()
    assert await calls.find(Plugin(lambda _: Found()), {"job": "1"}) == Found()


async def test_a_caller_that_goes_away_leaves_a_call_that_is_counted_until_it_ends() -> None:
    plugin, calls = Hanging(), Calls("demo", 60.0)
    task = asyncio.ensure_future(calls.find(plugin, {"job": "1"}))
    try:
        await until(lambda: plugin.calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls.hanging == 1
    finally:
        plugin.go.set()
    await until(lambda: not calls.hanging)


async def test_where_no_thread_is_to_be_had_it_is_a_limit_of_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    calls = Calls("demo")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        for _ in range(MAX_CALLS + 1):
            with pytest.raises(OSError, match="no thread is left"):
                await calls.find(Plugin(lambda _: Found()), {"job": "1"})
    assert await calls.find(Plugin(lambda _: Found()), {"job": "1"}) == Found()


def made(plugin: TargetPlugin) -> Callable[[], tuple[TargetPlugin, str]]:
    return lambda: (plugin, "demo 1.0")


async def test_a_kind_whose_calls_all_hang_is_not_offered_until_one_ends() -> None:
    plugin, kinds = Hanging(), Kinds(0.05)
    try:
        await kinds.add("demo", made(plugin))
        assert list(kinds) == [Offer("demo", True, "demo 1.0")]
        for _ in range(MAX_CALLS):
            with pytest.raises(PluginFailedError):
                await kinds.find("demo", {"job": "1"})
        (offer,) = kinds
        assert not offer.available
        assert "hangs" in offer.reason
        assert offer.remedy
        with pytest.raises(NoSuchKindError):
            await kinds.find("demo", {"job": "1"})
    finally:
        plugin.go.set()
    await until(lambda: next(iter(kinds)).available)


async def test_a_plugin_that_cannot_be_made_is_an_offer_that_says_why() -> None:
    def wants(error: BaseException) -> Callable[[], tuple[TargetPlugin, str]]:
        def make() -> tuple[TargetPlugin, str]:
            raise error

        return make

    kinds = Kinds()
    await kinds.add("a", wants(UnavailableError("no scheduler is on this node", "install one")))
    await kinds.add("b", wants(ImportError("secret path")))
    await kinds.add("c", wants(SystemExit(1)))
    offers = {offer.kind: offer for offer in kinds}
    assert offers["a"] == Offer("a", False, "no scheduler is on this node", "install one")
    for kind in ("b", "c"):
        assert not offers[kind].available
        assert "could not be loaded" in offers[kind].reason
        assert "secret" not in offers[kind].reason
        assert "log" in offers[kind].remedy
    for kind in ("a", "b", "c", "never-heard-of"):
        with pytest.raises(NoSuchKindError):
            kinds.check(kind)


async def test_a_kind_that_no_package_has_says_so() -> None:
    kinds = Kinds()
    await kinds.load(["no-such-kind"], {})
    (offer,) = kinds
    assert not offer.available
    assert "no package" in offer.reason


async def test_plugins_get_their_options_and_cannot_change_them() -> None:
    kinds = Kinds()
    await kinds.load(["slurm"], {"slurm": {"stray_processes": "everything"}})
    (offer,) = kinds
    if "cgroup" in offer.reason:
        raise lab.Unavailable(offer.reason)
    assert not offer.available
    assert "stray_processes=everything" in offer.reason


def names(found: Iterable[Offer]) -> set[str]:
    return {offer.kind for offer in found}


async def test_the_agents_own_plugin_is_found_by_its_kind() -> None:
    kinds = Kinds()
    await kinds.load(["slurm"], {})
    assert names(kinds) == {"slurm"}
