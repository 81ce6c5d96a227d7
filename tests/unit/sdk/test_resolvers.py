"""References and plugins: what names a target, and who resolves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mrelease import NodeRef, Process, resolvers
from mrelease.errors import InvalidReference, MissingExtra, NoAgent, OrchestratorDenied, ReferenceNotFound
from mrelease.resolvers import Agent, Placement, Reference


def test_a_reference_reads_like_a_url() -> None:
    ref = Reference.parse("k8s://ml/trainer-0/main?uid=1%262&x=%C3%A9")
    assert (ref.scheme, ref.parts, dict(ref.query)) == ("k8s", ("ml", "trainer-0", "main"), {"uid": "1&2", "x": "é"})


@pytest.mark.parametrize(
    "text",
    [
        *("", "k8s", "k8s:ml/x", "://x", "K8S://ml/x", "k8s://", "k8s:///x", "k8s://ml//x", "k8s://ml/x#y", "k8s://ml?a=1&a=2"),
        *("k8s://ml?x", "k8s://ml/\nx", "k8s://ml/" + "x" * 3000, "k8s://[::1/x"),
    ],
)
def test_what_is_no_reference_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert caught.value.remedy
    assert isinstance(caught.value, ValueError)


def test_a_scheme_that_no_plugin_has_names_those_that_there_are() -> None:
    with pytest.raises(InvalidReference, match=r"there are .*k8s"):
        resolvers.find("nomad")


PLUGIN = """
from mrelease import NodeRef, Process
from mrelease.resolvers import Agent, Placement

class Static:
    closed = False
    def resolve(self, ref, deadline):
        assert deadline == 7
        return [Placement("n1", Process(4711), NodeRef("n1", "boot"), ref, agent=Agent("unix:///run/x"))]
    def close(self):
        type(self).closed = True
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is installed: a module, and its entry points."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    (tmp_path / "my_broken_plugin.py").write_text("import a_library_that_nobody_has")
    info = tmp_path / "my_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[mrelease.resolvers]\nmy = my_plugin:Static\nbroken = my_broken_plugin:Static\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_is_installed_resolves_its_scheme_and_is_closed() -> None:
    with resolvers.resolve("my://x/y", deadline=7) as placements:
        kind = type(resolvers.find("my"))
        assert [(p.node, p.target, p.expected.boot_id, p.title) for p in placements] == [("n1", Process(4711), "boot", "my://x/y")]
        assert not kind.closed  # type: ignore[attr-defined]
    assert kind.closed  # type: ignore[attr-defined]


@pytest.mark.usefixtures("plugin")
def test_a_plugin_without_its_library_says_which_one() -> None:
    with pytest.raises(MissingExtra, match="a_library_that_nobody_has"):
        resolvers.find("broken")


def test_a_placement_without_an_agent_raises_why() -> None:
    why = OrchestratorDenied("you may not", "ask")
    with pytest.raises(OrchestratorDenied, match=r"you may not \(ask\)"):
        Placement("n", Process(1), NodeRef(), "x", problem=why).client()
    with pytest.raises(NoAgent, match="node n"):
        Placement("n", Process(1), NodeRef(), "x").reach()
    with Placement("n", Process(1), NodeRef(), "x", agent=Agent("unix:///run/x")).client() as client:
        assert client.address == "unix:///run/x"


def test_errors_survive_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ReferenceNotFound("gone", "look")))
    assert (type(error), error.message, error.remedy, str(error)) == (ReferenceNotFound, "gone", "look", "gone (look)")


def test_kubernetes_is_a_plugin() -> None:
    # Where importlib_metadata is loaded its entry points are of another class.
    assert resolvers.installed()["k8s"].value == "mrelease.resolvers.kubernetes:Kubernetes"


WITHOUT = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"yaml", "websockets"}:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Block())
from mrelease import errors, resolvers
try:
    with resolvers.resolve("k8s://ns/pod"): pass
except errors.MissingExtra as error:
    print(error)
"""


def test_without_the_extra_kubernetes_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], env={"KUBECONFIG": str(tmp_path / "config")}, capture_output=True, text=True, check=True
    )
    assert "pip install 'mrelease[kubernetes]'" in done.stdout
