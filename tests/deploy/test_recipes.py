"""The recipes of docs/plugins/recipes.md: real cgroups with the names that Nomad and YARN give, real victims in them, a real agent.

Nomad itself is not run here: what its API answers is what its documentation shows (/v1/allocation/:alloc_id), from a server of the test.
"""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import threading
import uuid
from collections.abc import Generator
from types import ModuleType
from typing import Any

import pytest

from mrelease import resolvers
from mrelease.errors import InvalidReference, NotPlaced, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers import Placement, conformance
from support import lab
from support.agent import Agent
from support.lab import Cgroup
from support.lab.cgroups import cgroup_below, in_hierarchy
from support.markdown import ROOT

SIZE = 32 * lab.MIB
ALLOC = str(uuid.UUID(int=0x5456BD7A9FC0C0DD61317D1D55DF9B01))
TASKS = {"train": {"State": "running"}, "pinned": {"State": "running"}, "waits": {"State": "pending"}, "over": {"State": "dead"}}
ALLOCATION = {
    "ID": ALLOC,
    "NodeName": "node7",
    "TaskStates": TASKS,
    "AllocatedResources": {
        "Tasks": {
            name: {"Cpu": {"CpuShares": 500, "ReservedCores": [2, 3] if name == "pinned" else None}, "Memory": {"MemoryMB": 256}}
            for name in TASKS
        }
    },
}
TOKEN = "a-token-of-nomad"


@pytest.fixture(scope="module")
def plugin() -> ModuleType:
    path = ROOT / "deploy" / "nomad" / "mrelease_nomad.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Api(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 200 if self.path == f"/v1/allocation/{ALLOC}" else 404
        status = 403 if self.headers.get("X-Nomad-Token") != TOKEN else status
        body = json.dumps(ALLOCATION).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


@pytest.fixture
def nomad(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("NOMAD_ADDR", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
        monkeypatch.setenv("MRELEASE_AGENTS", f"node7={agent.address}")
        yield
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def stuck(parent: Cgroup, path: str) -> Generator[lab.HangingVictim]:
    """A process in a cgroup of that name that SIGKILL does not end."""
    with cgroup_below(parent, path, ("memory",)) as group, lab.unkillable(SIZE, worker=True, within=(group,)) as victim:
        yield victim


def kill(placement: Placement) -> Any:
    with placement.client() as node:
        return node.kill_and_release(placement.target, node=placement.expected)


@pytest.mark.usefixtures("nomad", "process_mrelease")
@pytest.mark.parametrize(
    ("task", "query", "path"),
    [
        ("train", "", f"share.slice/{ALLOC}.train.scope"),
        ("pinned", "", f"reserve.slice/{ALLOC}.pinned.scope"),
        ("train", "&cgroup=v1", f"{ALLOC}.train"),
    ],
)
def test_a_task_of_nomad_gives_its_memory_back(plugin: ModuleType, task: str, query: str, path: str) -> None:
    with lab.memory_cgroup() as parent, stuck(parent, path) as victim:
        (placement,) = plugin.Nomad().resolve(f"nomad://{ALLOC}/{task}?parent={in_hierarchy(parent)}{query}", 10)
        result = kill(placement)
        assert result.is_released
        assert lab.rss_anon(victim.pid) <= SIZE // 20
        assert not victim.exited(0)


@pytest.mark.usefixtures("nomad")
def test_paths_are_those_of_nomads_clients(plugin: ModuleType) -> None:
    resolve = plugin.Nomad().resolve
    paths = [resolve(f"nomad://{ALLOC}/{rest}", 10)[0].target.path for rest in ("train", "pinned", "train?cgroup=v1")]
    assert paths == [
        f"/nomad.slice/share.slice/{ALLOC}.train.scope",
        f"/nomad.slice/reserve.slice/{ALLOC}.pinned.scope",
        f"/nomad/{ALLOC}.train",
    ]


@pytest.mark.usefixtures("nomad")
def test_nomads_resolver_says_what_is_wrong(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = plugin.Nomad().resolve
    for rest, error in (
        (f"{ALLOC}/nobody", ReferenceNotFound),
        (f"{uuid.UUID(int=1)}/train", ReferenceNotFound),
        (f"{ALLOC}/waits", NotPlaced),
        (f"{ALLOC[:8]}/train", InvalidReference),
        (f"{ALLOC}/train?parent=/a/../..", InvalidReference),
        (f"{ALLOC}/train?cgroup=v3", InvalidReference),
    ):
        with pytest.raises(error):
            resolve(f"nomad://{rest}", 10)
    monkeypatch.setenv("NOMAD_TOKEN", "another")
    with pytest.raises(OrchestratorDenied):
        resolve(f"nomad://{ALLOC}/train", 10)
    monkeypatch.setenv("NOMAD_ADDR", "http://127.0.0.1:1")
    with pytest.raises(OrchestratorUnavailable):
        resolve(f"nomad://{ALLOC}/train", 10)


@pytest.mark.usefixtures("nomad")
def test_nomads_resolver_conforms(plugin: ModuleType) -> None:
    good, unknown = f"nomad://{ALLOC}/train", f"nomad://{uuid.UUID(int=1)}/train"
    subject = conformance.Subject(plugin.Nomad, good, unknown, secrets=(TOKEN,))
    assert [str(finding) for finding in conformance.check(subject) if not finding.passed and finding.wrong] == []


@pytest.mark.usefixtures("process_mrelease")
def test_a_container_of_yarn_gives_its_memory_back(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENTS", f"worker3={agent.address}")
    name = "hadoop-yarn/container_e17_1410901177871_0001_01_000005"
    with lab.memory_cgroup() as parent, stuck(parent, name) as victim:
        (acted,) = resolvers.kill_and_release(f"cgroup://worker3{in_hierarchy(parent)}/{name}")
        assert not isinstance(acted.result, Exception), acted.result
        assert acted.result.is_released
        assert lab.rss_anon(victim.pid) <= SIZE // 20
