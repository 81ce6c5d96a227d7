"""What is looked at, and when: a pod within its grace period never is, whatever the API server says in whatever order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lightkube", reason="the controller needs Python 3.11: pip install 'mrelease[controller]'")

from mrelease_controller.agenda import Agenda
from mrelease_controller.cases import RECENT, Case, Kind, may_kill
from mrelease_controller.config import Settings
from mrelease_controller.modes import Mode
from mrelease_controller.objects import Annotations, ContainerStatus, Metadata, Pod, Spec, State, Status, Terminated

START = 1_800_000_000.0
NEW, OLD = "containerd://" + "b" * 64, "containerd://" + "a" * 64


def when(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def pod(
    uid: str = "u",
    *,
    ends: float | None = None,
    statuses: Sequence[ContainerStatus] = (ContainerStatus("main", NEW),),
    node: str = "n",
    annotations: Annotations | None = None,
    namespace: str = "ml",
) -> Pod:
    """``ends``: of its grace period."""
    metadata = Metadata(uid, namespace, uid, "1", None if ends is None else when(ends), annotations)
    return Pod(metadata=metadata, spec=Spec(node), status=Status("Running", list(statuses)))


def ended(container: str = NEW, *, code: int = 137, at: float = START, reason: str = "") -> State:
    return State(Terminated(container, code, reason, when(at)))


def due(agenda: Agenda, now: float) -> list[Case]:
    """Everything that is due, given back to be looked at again in an hour."""
    found: list[Case] = []
    while (entry := agenda.take(now)) is not None:
        found.append(entry.case)
        agenda.put(entry, pause=3600, now=now)
    return found


@dataclass
class World:
    """Pods as the API server has them, and an agenda that hears of it."""

    agenda: Agenda
    margin: float
    now: float = START
    ends: dict[str, float] = field(default_factory=dict[str, float])
    alive: set[str] = field(default_factory=set[str])

    def tell(self, uid: str) -> None:
        self.agenda.see(pod(uid, ends=self.ends.get(uid)), self.now)

    def look(self, pause: float) -> None:
        while (entry := self.agenda.take(self.now)) is not None:
            case = entry.case
            # The property: nobody looks before the grace period, as it is known by now, and the margin are over.
            assert case.uid in self.ends, "it was never to be ended"
            assert self.now >= self.ends[case.uid] + self.margin
            self.agenda.put(entry, pause=pause, now=self.now)


NAMES = [f"pod{number}" for number in range(12)]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(NAMES), st.just(0.0)),
        st.tuples(st.just("delete"), st.sampled_from(NAMES), st.floats(0, 600)),
        st.tuples(st.just("tell"), st.sampled_from(NAMES), st.just(0.0)),
        st.tuples(st.just("wait"), st.just(""), st.floats(0, 900)),
        st.tuples(st.just("look"), st.just(""), st.floats(1, 300)),
        st.tuples(st.just("list"), st.just(""), st.just(0.0)),
        st.tuples(st.just("wake"), st.just(""), st.just(0.0)),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=250)
@given(margin=st.floats(1, 120), steps=STEPS)
def test_a_healthy_terminating_pod_within_its_grace_is_never_touched(margin: float, steps: list[tuple[str, str, float]]) -> None:
    world = World(Agenda(Settings(margin=margin, kill_margin=600)), margin)
    for step, name, seconds in steps:
        match step:
            case "start":
                world.alive.add(name)
                world.tell(name)
            case "delete" if name in world.alive:
                # A second delete may only shorten the grace period.
                world.ends[name] = min(world.ends.get(name, float("inf")), world.now + seconds)
                world.tell(name)
            case "tell" if name in world.alive:
                world.tell(name)
            case "wait":
                world.now += seconds
            case "look":
                world.look(seconds)
            case "list":
                for each in world.alive:
                    world.tell(each)
                world.agenda.keep_only(world.alive)
            case "wake":
                world.agenda.wake("ml")
            case _:
                pass
    world.look(60)


@given(
    since=st.floats(0, 1e9),
    later=st.floats(-1000, 1000),
    mode=st.sampled_from(list(Mode)),
    kind=st.sampled_from(list(Kind)),
    margin=st.floats(1, 600),
)
def test_what_may_still_end_by_itself_is_never_killed(since: float, later: float, mode: Mode, kind: Kind, margin: float) -> None:
    case = Case(kind, "ml", "p", "u", "n", since)
    if may_kill(case, mode, Settings(kill_margin=margin), since + later):
        assert (mode, kind) == (Mode.KILL, Kind.TERMINATING)
        assert since + later >= since + margin


def test_a_pod_is_looked_at_when_its_grace_period_and_the_margin_are_over_and_not_a_moment_before() -> None:
    agenda = Agenda(Settings(margin=30))
    agenda.see(pod(ends=START), START - 60)
    assert agenda.next_due() == START + 30
    assert due(agenda, START + 29.999) == []
    (case,) = due(agenda, START + 30)
    assert (case.kind, case.uid, case.node) == (Kind.TERMINATING, "u", "n")


def test_a_shorter_grace_period_counts_from_when_it_is_known() -> None:
    agenda = Agenda(Settings(margin=30))
    agenda.see(pod(ends=START + 600), START)
    agenda.see(pod(ends=START + 1), START)
    assert agenda.next_due() == START + 31


def test_what_is_in_hand_is_not_handed_out_twice_and_what_came_meanwhile_counts() -> None:
    agenda = Agenda(Settings(margin=30))
    agenda.see(pod(ends=START), START)
    entry = agenda.take(START + 100)
    assert entry is not None
    agenda.see(pod(ends=START), START + 101)
    assert agenda.take(START + 200) is None
    agenda.put(entry, pause=5, now=START + 200)
    assert agenda.next_due() == START + 205


def test_a_pod_that_is_gone_is_forgotten_where_kubelet_has_said_that_all_of_it_ended() -> None:
    agenda = Agenda(Settings())
    agenda.see(pod(ends=START), START)
    agenda.gone(pod(ends=START, statuses=[ContainerStatus("main", NEW, ended())]), START + 1)
    assert len(agenda) == 0
    assert agenda.next_due() is None


def test_a_pod_that_was_deleted_by_force_is_looked_after_for_a_while() -> None:
    agenda = Agenda(Settings(margin=30))
    agenda.gone(pod(), START)
    (case,) = due(agenda, START + 30)
    assert case.kind is Kind.DELETED
    assert due(agenda, START + RECENT + 3700) == []
    assert len(agenda) == 0


def test_pods_that_went_while_nobody_watched_are_forgotten() -> None:
    agenda = Agenda(Settings())
    agenda.see(pod("a", ends=START), START)
    agenda.see(pod("b", ends=START), START)
    agenda.keep_only(["b"])
    assert [case.uid for case in agenda.cases()] == ["b"]


@pytest.mark.parametrize(
    ("status", "concerns"),
    [
        (ContainerStatus("main", NEW, State(), ended(OLD)), True),
        (ContainerStatus("main", NEW, ended()), True),
        (ContainerStatus("main", NEW, ended(code=1, reason="OOMKilled")), True),
        (ContainerStatus("main", NEW, ended(code=0)), False),
        (ContainerStatus("main", NEW, ended(code=1, reason="Error")), False),
        # kubelet writes down an old end beside the container that runs.
        (ContainerStatus("main", NEW, State(), ended(NEW)), False),
        (ContainerStatus("main", NEW, ended(at=START - RECENT - 1)), False),
        (ContainerStatus("main", NEW), False),
    ],
)
def test_containers_that_were_killed_and_no_others_are_looked_after(status: ContainerStatus, concerns: bool) -> None:
    agenda = Agenda(Settings(margin=30))
    agenda.see(pod(statuses=[status]), START)
    found = due(agenda, START + 30)
    assert [case.kind for case in found] == [Kind.CONTAINER] * concerns
    assert all(case.container in (OLD[13:], NEW[13:]) for case in found)


@pytest.mark.parametrize(
    "left_alone",
    [
        pod(ends=START, node=""),
        pod(ends=START, annotations=Annotations(mirror="x")),
        pod(ends=START, namespace="kube-system"),
        pod(),
    ],
)
def test_what_is_left_alone(left_alone: Pod) -> None:
    agenda = Agenda(Settings())
    agenda.see(left_alone, START)
    assert len(agenda) == 0
    if left_alone.metadata.deletionTimestamp is not None:
        agenda.gone(left_alone, START)
        assert len(agenda) == 0


def test_nothing_is_kept_of_pods_that_run() -> None:
    agenda = Agenda(Settings())
    for number in range(10_000):
        agenda.see(pod(str(number)), START)
    assert len(agenda) == 0
    assert agenda.next_due() is None
