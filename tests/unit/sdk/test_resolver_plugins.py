"""Resolvers that other people wrote: broken, hostile, late, twice; and the conformance kit that finds it before they are installed."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from mrelease import Custom, NodeRef, Pod, Process, Target, resolvers
from mrelease._conformance import silent_server
from mrelease.addresses import conformance as finders
from mrelease.addresses._dns import Dns
from mrelease.addresses._environment import Environment
from mrelease.addresses._file import InventoryFile
from mrelease.addresses._local import Local
from mrelease.errors import (
    InvalidReference,
    MissingExtra,
    MreleaseError,
    OrchestratorUnavailable,
    PluginFailed,
    ReferenceNotFound,
)
from mrelease.resolvers import Agent, Placement, Reference, Resolver, direct
from mrelease.resolvers.conformance import ResolverConformance, Subject
from mrelease.resolvers.kubernetes import Kubernetes
from support.kube_api import FakeApi, fake_api

PLUGIN = """
import sys, threading
from mrelease import NodeRef, Process
from mrelease.errors import ResolutionError
from mrelease.resolvers import Agent, Placement

class Poison(ResolutionError):
    def __init__(self): pass
    def __str__(self): return None

GOOD = Placement("n1", Process(7, 8), NodeRef(), "a task", Agent("unix:///x"))

class Plugin:
    def resolve(self, ref, deadline):
        kind = ref.rpartition("/")[2]
        match kind:
            case "good": return [GOOD]
            case "raises": raise RuntimeError("password=hunter2")
            case "exits": sys.exit("password=hunter2")
            case "interrupts": raise KeyboardInterrupt
            case "poison": raise Poison
            case "hangs": threading.Event().wait()
            case "nothing": return None
            case "empty": return []
            case "text": return "n1"
            case "tuples": return [("n1", 7)]
            case "nodeless": return [Placement(" ", Process(7), NodeRef(), "x", Agent("unix:///x"))]
            case "targetless": return [Placement("n1", 7, NodeRef(), "x", Agent("unix:///x"))]
            case "agentless": return [Placement("n1", Process(7), NodeRef(), "x")]
            case "lazy": return (each for each in [GOOD])
    def close(self):
        raise ValueError("password=hunter2")

class Async(Plugin):
    async def resolve(self, ref, deadline):
        return [GOOD]

class Unmade(Plugin):
    def __init__(self):
        raise OSError("password=hunter2")

class Recursive(Plugin):
    def resolve(self, ref, deadline):
        return self.resolve(ref, deadline)

number = 7
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that are installed: two of them have a resolver of one scheme."""
    (tmp_path / "bad_plugin.py").write_text(PLUGIN)
    (tmp_path / "worse_plugin.py").write_text("1 / 0")
    entries = {
        "bad": "bad = bad_plugin:Plugin\nasync = bad_plugin:Async\nunmade = bad_plugin:Unmade\nrecursive = bad_plugin:Recursive\n"
        "number = bad_plugin:number\nworse = worse_plugin:Plugin\nabsent = bad_plugin:Absent\nnowhere = no_such_module_of_anybody:X\n"
        "twice = bad_plugin:Plugin\n",
        "other": "twice = bad_plugin:Async\n",
    }
    for name, lines in entries.items():
        info = tmp_path / f"{name}_plugin-3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 3\n")
        (info / "entry_points.txt").write_text(f"[mrelease.resolvers]\n{lines}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("bad_plugin", "worse_plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)


CASES: list[tuple[str, type[MreleaseError], str]] = [
    ("bad://x/raises", PluginFailed, r"RuntimeError at bad_plugin.py:\d+"),
    ("bad://x/exits", PluginFailed, "SystemExit"),
    ("bad://x/interrupts", PluginFailed, "KeyboardInterrupt"),
    ("bad://x/poison", PluginFailed, "cannot say why"),
    ("bad://x/hangs", OrchestratorUnavailable, "gave no answer within 0.2 s"),
    ("bad://x/nothing", PluginFailed, "gave NoneType, not a list"),
    ("bad://x/empty", ReferenceNotFound, "found nothing"),
    ("bad://x/text", PluginFailed, "gave str, not a list"),
    ("bad://x/tuples", PluginFailed, "gave tuple where a Placement goes"),
    ("bad://x/nodeless", PluginFailed, "without a node"),
    ("bad://x/targetless", PluginFailed, "whose target is int"),
    ("bad://x/agentless", PluginFailed, "neither an agent nor a problem"),
    ("bad://x/lazy", PluginFailed, "gave generator, not a list"),
    ("async://x", PluginFailed, "coroutine function"),
    ("unmade://x", PluginFailed, r"OSError at bad_plugin.py"),
    ("recursive://x", PluginFailed, "RecursionError"),
    ("number://x", PluginFailed, "no callable"),
    ("worse://x", PluginFailed, "cannot be imported"),
    ("absent://x", PluginFailed, "AttributeError"),
    ("nowhere://x", MissingExtra, "needs no_such_module_of_anybody"),
    ("twice://x", PluginFailed, r"several packages.*uninstall all but one"),
]


@pytest.mark.parametrize(("ref", "error", "said"), CASES)
def test_whatever_a_plugin_does_is_an_error_that_names_it_and_no_secret(
    ref: str, error: type[MreleaseError], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(error, match=said) as caught, resolvers.resolve(ref, deadline=0.2 if "hangs" in ref else 30):
        pass
    told = f"{caught.value}{caught.value!r}{caplog.text}"
    assert f"plugin {Reference.parse(ref).scheme} (" in str(caught.value)
    assert "hunter2" not in told
    assert caught.value.remedy  # type: ignore[attr-defined]


def test_two_packages_of_one_scheme_are_both_named() -> None:
    with pytest.raises(PluginFailed, match=r"bad_plugin:Plugin of bad-plugin 3") as caught:
        resolvers.find("twice")
    assert "bad_plugin:Async of other-plugin 3" in str(caught.value)


def test_one_that_cannot_be_closed_has_resolved_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), resolvers.resolve("bad://x/good") as placements:
        assert placements[0].target == Process(7, 8)
    assert "plugin bad" in caplog.text
    assert "was not closed" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_traceback_is_there_for_its_author(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mrelease.plugins"), pytest.raises(PluginFailed), resolvers.resolve("bad://x/raises"):
        pass
    assert "hunter2" in caplog.text


async def test_asyncio_goes_on_while_a_plugin_hangs() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    with pytest.raises(OrchestratorUnavailable, match="plugin bad"):
        async with resolvers.resolve_async("bad://x/hangs", deadline=0.2):
            pass
    other.cancel()
    assert turns > 1
    async with resolvers.resolve_async("bad://x/good") as placements:
        assert placements[0].title == "a task"


LATE = """
from mrelease import errors, resolvers
try:
    with resolvers.resolve("bad://x/hangs", deadline=0.1):
        pass
except errors.OrchestratorUnavailable:
    print("late")
"""


def test_a_program_ends_although_a_plugin_never_does() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", LATE], env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "late\n"


# What is named by its node and its own identity.


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("MRELEASE_") or name == "KUBECONFIG":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MRELEASE_AGENTS", "n1=127.0.0.1:7443")


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    ("ref", "target", "boot", "uid"),
    [
        ("pid://n1/4711", Process(4711), "", None),
        ("pid://n1/4711:99", Process(4711, 99), "", None),
        ("pid://n1/4711?start=5&boot=b-1", Process(4711, None, 5), "b-1", None),
        ("pid://n1/4711?uid=0", Process(4711), "", 0),
        ("pid://n1/1?container=0123456789ab", Process(1, container_id="0123456789ab"), "", None),
        ("target://n1/slurm?job=1234&step=0", Custom("slurm", {"job": "1234", "step": "0"}), "", None),
    ],
)
def test_direct_references_say_all_that_a_target_can(ref: str, target: Target, boot: str, uid: int | None) -> None:
    with resolvers.resolve(ref) as [placement]:
        assert (placement.target, placement.expected, placement.uid) == (target, NodeRef("", boot), uid)
        assert placement.reach() == Agent("127.0.0.1:7443")


@pytest.mark.usefixtures("nodes")
@pytest.mark.parametrize(
    "ref",
    [
        *("pid://n1", "pid://n1/0", "pid://n1/x", "pid://n1/7:0", "pid://n1/7/8", "pid://n1/-7", "pid://n1/7?start=x", "pid://n1/7?uid="),
        *("pid://n1/7:8?uid=0", "pid://n1/7?user=me", "pid://n1/7?boot=", "container://n1", "container://n1/a/b", "cgroup://n1"),
        *("container://n1/a?x=1", "target://n1", "target://n1/slurm?job="),
    ],
)
def test_what_does_not_say_which_is_refused(ref: str) -> None:
    with pytest.raises(InvalidReference) as caught, resolvers.resolve(ref):
        pass
    assert caught.value.remedy


# What is shipped.


class Shipped(ResolverConformance):
    """The environment of the direct resolvers."""

    made: ClassVar[type[Resolver]] = direct.Pid
    good, unknown = "pid://n1/7:8", "pid://n9/7:8"

    @pytest.fixture(autouse=True)
    def somewhere(self, nodes: None) -> None:
        """With one node."""

    def subject(self) -> Subject:
        kind = type(self)
        return Subject(kind.made, kind.good, kind.unknown, any_key=kind.made is direct.CustomTarget)


class TestPid(Shipped):
    pass


class TestContainer(Shipped):
    made, good, unknown = direct.ContainerById, "container://n1/0123456789ab", "container://n9/0123456789ab"


class TestCgroup(Shipped):
    made, good, unknown = direct.CgroupByPath, "cgroup://n1/a/b", "cgroup://n9/a/b"


class TestTarget(Shipped):
    made, good, unknown = direct.CustomTarget, "target://n1/slurm?job=1", "target://n9/slurm?job=1"


class TestKubernetes(ResolverConformance):
    """With a scripted API server; tests/e2e has a real one."""

    @pytest.fixture(autouse=True)
    def cluster(self, tmp_path: Path) -> Generator[None]:
        with fake_api() as fake, silent_server() as silent:
            pod = {"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
            service = {"metadata": {"namespace": "mrelease", "name": "mr", "annotations": {"mrelease.dev/server-name": "mr"}}}
            slices = {
                "metadata": {"name": "mr-1", "uid": "s"},
                "ports": [{"name": "grpc", "port": 7443}],
                "endpoints": [{"addresses": ["10.0.0.9"], "nodeName": "n1"}],
            }
            data = {name: base64.b64encode(b"s3cret-key").decode() for name in ("ca.crt", "tls.crt", "tls.key")}
            data["ca.crt"] = data["tls.crt"] = base64.b64encode(b"public").decode()
            fake.say("/api/v1/namespaces/ns/pods/p", pod)
            fake.say("/api/v1/nodes/n1", {"metadata": {"name": "n1"}, "status": {"nodeInfo": {"bootID": "boot-1"}}})
            fake.say("/api/v1/namespaces/mrelease/services", {"items": [service]})
            fake.say("/apis/discovery.k8s.io/v1/namespaces/mrelease/endpointslices", {"metadata": {}, "items": [slices]})
            fake.say("/api/v1/namespaces/mrelease/secrets/mr-client-mrelease-admin", {"data": data})
            (tmp_path / "silent").mkdir()
            self.config = fake.kubeconfig(tmp_path, {"token": "t0ken"})
            self.silent = FakeApi(f"http://{silent}").kubeconfig(tmp_path / "silent", {"token": "t0ken"})
            yield

    def subject(self) -> Subject:
        return Subject(
            lambda: Kubernetes(kubeconfig=self.config, tunnel=False), "k8s://ns/p", "k8s://ns/none", secrets=("t0ken", "s3cret-key"),
            stuck=lambda: Kubernetes(kubeconfig=self.silent, tunnel=False),
        )  # fmt: skip


def test_kubernetes_deletes_only_the_pod_that_was_resolved(tmp_path: Path) -> None:
    path = "/api/v1/namespaces/ns/pods/p"
    with fake_api() as fake:
        pod = {"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}
        fake.say(path, pod)
        placement = Placement("n1", Pod("u"), NodeRef("n1"), "ns/p", Agent("unix:///x"))
        with Kubernetes(kubeconfig=fake.kubeconfig(tmp_path), tunnel=False) as cluster:
            cluster.before([placement])
            [deleted] = [asked for asked in fake.asked if asked.method == "DELETE"]
            assert json.loads(deleted.body)["preconditions"] == {"uid": "u"}
            with pytest.raises(ReferenceNotFound, match="another one now"):
                cluster.before([replace(placement, target=Pod("v"))])
            with pytest.raises(InvalidReference, match="one container"):
                cluster.before([replace(placement, target=Pod("u", ("abc",)), title="ns/p/c")])
        assert len([asked for asked in fake.asked if asked.method == "DELETE"]) == 1


class Found(finders.FinderConformance):
    """The environment of the finders."""

    @pytest.fixture(autouse=True)
    def finds(self, nodes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        del nodes
        file = tmp_path / "inventory.json"
        file.write_text(json.dumps({"groups": [{"nodes": "n1", "address": "{node}:7443"}]}))
        monkeypatch.setenv("MRELEASE_INVENTORY", str(file))
        monkeypatch.setenv("MRELEASE_AGENT_TEMPLATE", "{node}:7443")
        monkeypatch.setenv("MRELEASE_AGENT", "unix:///run/x")


class TestEnvironment(Found):
    def subject(self) -> finders.Subject:
        return finders.Subject(Environment, "n1", "n9")


class TestInventoryFile(Found):
    def subject(self) -> finders.Subject:
        return finders.Subject(InventoryFile, "n1", "n9")


class TestLocal(Found):
    def subject(self) -> finders.Subject:
        return finders.Subject(Local, "localhost", "n9")


class TestDns(Found):
    def subject(self) -> finders.Subject:
        # Names that cannot be looked up anywhere: a test has no name server.
        return finders.Subject(Dns, "localhost", "a..b")
