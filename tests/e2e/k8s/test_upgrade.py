"""Upgrades and new certificates: what runs is finished, callers are not locked out."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.cluster import Cluster, hog
from e2e.k8s.conftest import values
from e2e.k8s.release import PORT, Release
from e2e.k8s.victims import PYTHON, SIZE
from mrelease import Container, Step
from support.lab import MIB, until

#: Holds its memory, notes that it was asked to end, and does not.
_STUBBORN = f"""
import pathlib, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("/tmp/asked").touch())
memory = b"x" * ({SIZE} << 20)
pathlib.Path("/tmp/full").touch()
while True:
    signal.pause()
"""
#: Seconds in which it may end by itself: longer than an upgrade takes to end the agent, shorter than the agent waits for what runs.
_GRACE = 12


@pytest.fixture
def restored(release: Release, team_namespace: str) -> Generator[None, None, None]:
    """The values of all tests again, afterwards."""
    yield
    release.upgrade(values(team_namespace))
    release.await_agents()


@pytest.mark.usefixtures("restored")
def test_an_upgrade_in_the_middle_of_a_kill_lets_it_end_and_its_caller_hears_of_it(
    release: Release, cluster: Cluster, namespace: str, team_namespace: str, victim_node: str
) -> None:
    manifest = hog("victim", SIZE, cluster.image, node=victim_node)
    manifest["spec"]["containers"][0]["command"] = [PYTHON, "-Sc", _STUBBORN]
    victim = cluster.run_pod(manifest, namespace)
    (pid,) = cluster.node(victim_node).pids(victim.containers["hog"])
    old, certificates = release.agents()[victim_node], (release.secret("ca"), release.secret("server"), release.tls())
    with release.client(victim_node) as agent, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(agent.kill_and_release, Container(victim.containers["hog"]), grace_period=_GRACE, timeout=30)
        until(lambda: Path(f"/proc/{pid}/root/tmp/asked").exists(), "the victim to be asked to end")
        release.upgrade({**values(team_namespace), "config": {"log_level": "debug"}, "maxUnavailable": "100%"}, wait=False)
        until(lambda: release.agents().get(victim_node, old).uid != old.uid or victim_node not in release.agents(), "the agent to be ended")
        assert not answer.done(), "the agent ended only after the kill"
        result = answer.result(timeout=90)
    assert result.is_released
    assert result.released_bytes >= SIZE * MIB * 0.98
    assert [process.step for process in result.processes] != [Step.GRACE], "the victim ended by itself"
    release.await_agents()
    assert release.agents()[victim_node].uid != old.uid
    assert (release.secret("ca"), release.secret("server"), release.tls()) == certificates
    (record,) = [found for found in release.audit(victim_node) if found["event"] == "result" and victim.containers["hog"] in str(found)]
    assert record["event"] == "result"
    with release.client(victim_node) as agent:
        assert agent.get_node().identity.name == victim_node


def test_a_new_server_certificate_is_taken_without_a_restart(
    release: Release, cluster: Cluster, team_namespace: str, victim_node: str
) -> None:
    before, authority, pods = served(release, victim_node), release.secret("ca"), release.agents()
    cluster.kubectl("delete", "secret", f"{release.full_name}-server", "-n", release.namespace)
    release.upgrade(values(team_namespace))
    made = release.secret("server")
    assert release.secret("ca") == authority
    release.touch()
    until(lambda: served(release, victim_node) != before, "the agent to show another certificate", 90)
    assert served(release, victim_node) == ssl.PEM_cert_to_DER_cert(made["tls.crt"].decode())
    with release.client(victim_node) as agent:
        assert agent.get_node().identity.name == victim_node
    after = release.agents()
    assert {name: (pod.uid, dict(pod.restarts)) for name, pod in after.items()} == {
        name: (pod.uid, dict(pod.restarts)) for name, pod in pods.items()
    }


def served(release: Release, node: str) -> bytes:
    """The certificate that the agent of a node shows, DER."""
    pod = release.agents()[node]
    with release.cluster.port_forward(f"pod/{pod.name}", PORT, release.namespace) as port:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=30))
