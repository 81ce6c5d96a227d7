"""Ray, the real one: an actor whose process Ray calls dead while it holds its memory, and everybody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator

import pytest

from mrelease import Client, Process, resolvers
from mrelease.errors import InvalidReference, NoAgent, NotPlaced, OrchestratorDenied, ReferenceNotFound, WrongTarget
from mrelease.resolvers import Acted, conformance
from mrelease.resolvers.ray import Ray
from plugins.ray.cluster import Cluster, cluster
from plugins.stuck import NOTHING, SIZE
from support import lab
from support.agent import Agent
from support.lab import HangFs

pytestmark = pytest.mark.plugins


@pytest.fixture(scope="module")
def running() -> Generator[Cluster]:
    """One Ray for all tests: it takes its time."""
    with cluster() as started:
        yield started


@pytest.fixture
def ray(running: Cluster, plugin_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Ray, in the environment of one of its users who knows where the agents are."""
    for name, value in running.environment.items():
        if name.startswith("RAY_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://{running.address}")
    monkeypatch.setenv("MRELEASE_AGENTS", f"{running.node}={plugin_agent.address}")
    return running


def released(acted: Acted) -> int:
    """Bytes that came back."""
    assert not isinstance(acted.result, Exception), acted.result
    assert acted.result.is_released
    return acted.result.released_bytes


@contextlib.contextmanager
def exiting(pid: int) -> Generator[None]:
    """What is done within ends the process, and it is waited for."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        assert lab.wait_readable(pidfd)
    finally:
        os.close(pidfd)


def test_ray_alone_never_gets_the_memory_back_and_a_reference_does(ray: Cluster, hanging: HangFs) -> None:
    _, other = ray.actor("other of the first")
    with ray.stuck("dead", hanging) as (actor_id, stuck):
        ray.order("kill", name="dead", for_good=True)
        lab.until(lambda: ray.state(actor_id) == "DEAD", "Ray says that the actor is dead")
        lab.until(stuck.is_killed, "Ray has killed the process")
        assert stuck.held_bytes() >= SIZE

        (acted,) = resolvers.kill_and_release(f"ray://{ray.address}/actor/{actor_id}", reason="a test")

        assert released(acted) >= SIZE
        assert stuck.held_bytes() < NOTHING
        assert not stuck.has_exited()
    assert ray.pid("other of the first") == other


def test_a_living_actor_that_hangs_gives_its_memory_back(ray: Cluster, hanging: HangFs) -> None:
    with ray.stuck("living", hanging) as (_, stuck):
        (acted,) = resolvers.kill_and_release("ray://auto/actor/living?namespace=tests", reason="a test")
        assert released(acted) >= SIZE
        assert stuck.held_bytes() < NOTHING


def test_an_actor_that_was_restarted_meanwhile_is_not_hit(ray: Cluster, plugin_agent: Agent) -> None:
    actor_id, before = ray.actor("restarted", restarts=-1)
    (placement,) = Ray().resolve(f"ray://auto/actor/{actor_id}", 30)
    with exiting(before):
        ray.order("kill", name="restarted", for_good=False)
    after = ray.pid("restarted")
    assert after != before
    with placement.client() as node, pytest.raises(WrongTarget):
        node.kill_and_release(placement.target, node=placement.expected)
    assert ray.pid("restarted") == after
    (again,) = Ray().resolve(f"ray://auto/actor/{actor_id}", 30)
    assert isinstance(again.target, Process)
    assert again.target.pid == after
    ray.order("kill", name="restarted", for_good=True)


def test_the_process_that_a_restarting_actor_had_is_found_by_its_worker(ray: Cluster, hanging: HangFs) -> None:
    actor_id, pid = ray.actor("twice", restarts=-1)
    (worker,) = [row["worker_id"] for row in ray.rows("workers", pid=str(pid)) if row["is_alive"]]
    ray.order("hang", name="twice", size=SIZE, path=hanging.path)
    lab.until(lambda: lab.rss_anon(pid) >= SIZE, "the actor has its memory")
    hanging.wait_held("READ")
    ray.order("kill", name="twice", for_good=False)
    lab.until(lambda: ray.rows("actors", actor_id=actor_id)[0]["pid"] not in (0, pid), "the actor has another process")
    after = ray.pid("twice")
    assert after != pid
    assert lab.rss_anon(pid) >= SIZE
    (acted,) = resolvers.kill_and_release(f"ray://auto/worker/{worker}", reason="a test")
    assert released(acted) >= SIZE
    assert ray.pid("twice") == after


def test_every_kind_of_name_leads_to_the_process(ray: Cluster) -> None:
    actor_id, pid = ray.actor("named")
    (worker,) = [row for row in ray.rows("workers", pid=str(pid)) if row["is_alive"]]
    task_id = ray.order("task")["id"]
    lab.until(
        lambda: bool(ray.rows("tasks", task_id=task_id)) and bool(ray.rows("tasks", task_id=task_id)[0]["worker_pid"]), "the task runs"
    )
    expected = {
        f"ray://{ray.address}/actor/{actor_id}": pid,
        "ray://auto/actor/named": pid,
        "ray://auto/actor/named?namespace=tests": pid,
        f"ray://auto/worker/{worker['worker_id']}": pid,
        f"ray://auto/node/{worker['node_id']}/{pid}": pid,
        f"ray://auto/node/{ray.node}/{pid}": pid,
        f"ray://auto/task/{task_id}": int(ray.rows("tasks", task_id=task_id)[0]["worker_pid"]),
    }
    for ref, number in expected.items():
        (placement,) = Ray().resolve(ref, 30)
        assert isinstance(placement.target, Process)
        assert placement.target.pid == number
        assert placement.target.start_time_ticks == lab.start_time(number)
        assert placement.expected.boot_id


def test_what_waits_or_is_over_is_not_placed(ray: Cluster) -> None:
    ray.order("actor", name="too big", restarts=0, cpus=10_000)
    with pytest.raises(NotPlaced, match="it has no process"):
        Ray().resolve("ray://auto/actor/too%20big", 30)
    actor_id, pid = ray.actor("over")
    with exiting(pid):
        ray.order("kill", name="over", for_good=True)
    lab.until(lambda: ray.state(actor_id) == "DEAD", "Ray says that the actor is dead")
    with pytest.raises(ReferenceNotFound, match="its memory is back"):
        Ray().resolve(f"ray://auto/actor/{actor_id}", 30)


@pytest.mark.parametrize(
    ("rest", "error"),
    [
        ("actor/nobody", ReferenceNotFound),
        ("actor/named-in?namespace=another", ReferenceNotFound),
        (f"actor/{'0' * 32}", ReferenceNotFound),
        (f"worker/{'0' * 56}", ReferenceNotFound),
        (f"task/{'0' * 48}", ReferenceNotFound),
        ("node/no-such-node/4711", ReferenceNotFound),
        (f"actor/present?container={'a' * 64}", ReferenceNotFound),
        ("worker/short", InvalidReference),
    ],
)
def test_what_is_not_there_is_said(ray: Cluster, rest: str, error: type[Exception]) -> None:
    if "present" in rest:
        ray.actor("present")
    with pytest.raises(error):
        Ray().resolve(f"ray://auto/{rest}", 30)


def test_a_node_whose_agent_nobody_knows_is_a_problem_of_the_placement(ray: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.actor("without")
    monkeypatch.setenv("MRELEASE_AGENTS", "elsewhere=unix:///nowhere")
    monkeypatch.setenv("MRELEASE_ADDRESSES", "environment")
    (placement,) = Ray().resolve("ray://auto/actor/without", 30)
    assert isinstance(placement.problem, NoAgent)


def test_the_name_of_the_agents_node_can_be_said(ray: Cluster, plugin_agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.actor("elsewhere")
    monkeypatch.setenv("MRELEASE_AGENTS", f"rack7={plugin_agent.address}")
    (placement,) = Ray().resolve("ray://auto/actor/elsewhere?node=rack7", 30)
    assert placement.agent is not None


@pytest.mark.parametrize("token", ["", "0" * 48])
def test_who_has_not_the_token_is_denied(ray: Cluster, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    environment = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    with pytest.raises(OrchestratorDenied):
        Ray(environment=environment).resolve(f"ray://{ray.address}/actor/anything", 30)


def test_it_conforms(ray: Cluster, plugin_agent: Agent) -> None:
    actor_id, _ = ray.actor("conforming")
    token = ray.environment["RAY_AUTH_TOKEN"]
    with conformance.silent_server() as silent:
        subject = conformance.Subject(
            Ray,
            good=f"ray://auto/actor/{actor_id}",
            unknown="ray://auto/actor/nobody",
            secrets=(token,),
            stuck=lambda: Ray(environment={"RAY_API_SERVER_ADDRESS": f"http://{silent}", "RAY_AUTH_TOKEN": token}),
        )
        assert [str(finding) for finding in conformance.check(subject) if not finding.passed] == []
    with Client(plugin_agent.address) as node:
        assert node.get_node()
