"""From nodes to agents: who is asked, in which order, what each says, and what hostile or broken configuration becomes."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from mrelease import TLS, _contexts, addresses
from mrelease.addresses import Addresses, Agent, agent_of
from mrelease.addresses._inventory import MOST, expand
from mrelease.errors import InvalidInventory, MreleaseError, NoAgent, OrchestratorUnavailable, PluginFailed

INVENTORY = """
groups:
  - nodes: ["node[01-16]", login]
    address: "{node}.example.org:7443"
    name: "{node}"
  - nodes: gpu7
    address: 10.0.0.7:7443
    context: lab
    server_name: "{node}.lab"
  - nodes: here
    address: unix:///run/x/agent.sock
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of somebody who has configured nothing."""
    for name in [*os.environ]:
        if name.startswith("MRELEASE_") or name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MRELEASE_AGENT", f"unix://{tmp_path}/agent.sock")
    return tmp_path


def inventory(home: Path, text: str = INVENTORY, name: str = "inventory.yaml", mode: int = 0o600) -> Path:
    folder = home / ".config" / "mrelease"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    file.chmod(mode)
    return file


def lab_context(home: Path) -> TLS:
    found = _contexts.Contexts()
    found.add("lab", _contexts.Context("n0.example.org:7443", "/lab/ca.crt", "/lab/me.crt", "/lab/me.key"))
    _contexts.save(found, home / ".config" / "mrelease" / "contexts.json")
    return TLS("/lab/ca.crt", "/lab/me.crt", "/lab/me.key")


def test_the_inventory_names_agents_by_ranges_and_one_by_one(home: Path) -> None:
    inventory(home)
    assert agent_of("node07") == Agent("node07.example.org:7443", None, "node07")
    assert agent_of("login").address == "login.example.org:7443"
    assert agent_of("here") == Agent("unix:///run/x/agent.sock")


def test_certificates_are_those_of_the_groups_context_with_the_name_that_is_expected(home: Path) -> None:
    inventory(home)
    tls = lab_context(home)
    assert agent_of("gpu7") == Agent("10.0.0.7:7443", TLS(tls.ca, tls.cert, tls.key, "gpu7.lab"))


def test_without_a_context_they_are_those_of_the_environment_or_of_the_context_in_use(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory(home)
    tls = lab_context(home)
    monkeypatch.setenv("MRELEASE_CONTEXT", "lab")
    assert agent_of("node01").tls == tls
    for name in ("CA", "CERT", "KEY"):
        monkeypatch.setenv(f"MRELEASE_CLIENT_{name}", f"/env/{name}")
    assert agent_of("node01").tls == TLS("/env/CA", "/env/CERT", "/env/KEY")
    assert agent_of("here").tls is None, "a socket has no certificates"


def test_an_inventory_that_changes_is_read_again(home: Path) -> None:
    inventory(home)
    with pytest.raises(NoAgent):
        agent_of("new")
    inventory(home, 'groups: [{nodes: new, address: "10.0.0.9:7443"}]')
    assert agent_of("new").address == "10.0.0.9:7443"


def test_json_needs_no_library(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = inventory(home, json.dumps({"groups": [{"nodes": ["a"], "address": "{node}:1"}]}), "inventory.json")
    monkeypatch.setenv("MRELEASE_INVENTORY", str(file))
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert agent_of("a").address == "a:1"
    monkeypatch.setenv("MRELEASE_INVENTORY", str(inventory(home)))
    with pytest.raises(InvalidInventory, match=r"needs PyYAML.*pip install"):
        agent_of("a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("groups: [", r"not YAML, line"),
        ("[]", r"not a mapping"),
        ("groups: []", r"groups is not a list"),
        ("hosts: {}", r"'hosts' is not known"),
        ("groups: [{nodes: a}]", r"groups\[0\] has no address"),
        ("groups: [{nodes: a, address: nowhere}]", r"groups\[0\]: address: 'nowhere' is not an address"),
        ("groups: [{nodes: a, address: 'h:1', port: 5}]", r"'port' is not known"),
        ("groups: [{nodes: 7, address: 'h:1'}]", r"nodes is not a name"),
        ("groups: [{nodes: [7], address: 'h:1'}]", r"7 is not the name of a node"),
        ("groups: [{nodes: '', address: 'h:1'}]", r"name of a node is empty"),
        ("groups: [{nodes: 'a[3-1]', address: '{node}:1'}]", r"\[3-1\] is not a range"),
        ("groups: [{nodes: 'a[1-9999999]', address: '{node}:1'}]", r"not a range of at most"),
        ("groups: [{nodes: 'a[1-999]b[1-999]', address: '{node}:1'}]", r"names 998001 nodes"),
        ("groups: [{nodes: 'a[1-2', address: '{node}:1'}]", r"is not the name of a node"),
        ("groups: [{nodes: 'a b', address: '{node}:1'}]", r"is not the name of a node"),
        ("groups: [{nodes: 'a[1-2]', address: 'h:1'}]", r"2 nodes have the same address"),
        ("groups: [{nodes: a, address: 'h:1'}, {nodes: a, address: 'h:2'}]", r"groups\[1\]: node a is named twice"),
        ("groups: [{nodes: a, address: 'h:1', context: ''}]", r"context is not a text, or empty"),
        ("groups: [{nodes: a, address: 'unix:///x', context: lab}]", r"remove context"),
        ("groups: &a [*a]", r"is not a mapping"),
    ],
)
def test_what_is_wrong_with_an_inventory_names_the_field_and_no_other_finder_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    file = inventory(home, text)
    monkeypatch.setenv("MRELEASE_AGENT_TEMPLATE", "localhost:{node}")
    with pytest.raises(InvalidInventory, match=said) as caught:
        agent_of("a")
    assert str(file) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_an_inventory_that_others_can_write_is_not_believed(home: Path) -> None:
    inventory(home, mode=0o666)
    with pytest.raises(InvalidInventory, match="can be written by others"):
        agent_of("node01")


def test_a_context_that_is_not_there_is_said(home: Path) -> None:
    inventory(home)
    with pytest.raises(InvalidInventory, match="no context 'lab'"):
        agent_of("gpu7")


def test_ranges_keep_zeros_and_may_be_several() -> None:
    assert list(expand("r[1-2]n[09-11,20]")) == ["r1n09", "r1n10", "r1n11", "r1n20", "r2n09", "r2n10", "r2n11", "r2n20"]
    assert sum(1 for _ in expand(f"n[1-{MOST}]")) == MOST


def test_the_environment_comes_before_the_inventory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory(home)
    monkeypatch.setenv("MRELEASE_AGENTS", "node01=127.0.0.1:1, n2=unix:///x")
    assert agent_of("node01").address == "127.0.0.1:1"
    assert agent_of("n2").address == "unix:///x"
    assert agent_of("node02").address == "node02.example.org:7443"


@pytest.mark.parametrize(
    ("text", "said"), [("n1", "'n1' is not NODE=ADDRESS"), ("n1=h:1,", "'' is not"), ("n1=a:1,n1=b:1", "twice"), ("x=", "is not")]
)
def test_a_broken_environment_is_said(monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.setenv("MRELEASE_AGENTS", text)
    with pytest.raises(InvalidInventory, match=said):
        agent_of("n1")


def test_this_node_is_reached_by_its_socket(home: Path) -> None:
    for name in ("localhost", socket.gethostname(), "127.0.0.1", "::1", "[::1]"):
        assert agent_of(name).address == f"unix://{home}/agent.sock"
    with pytest.raises(NoAgent, match="this node is"):
        agent_of("192.0.2.1")  # TEST-NET-1, RFC 5737


def test_a_template_makes_names_that_must_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRELEASE_AGENT_TEMPLATE", "{node}:7443")
    monkeypatch.setenv("MRELEASE_ADDRESSES", "dns")
    assert agent_of("localhost").address == "localhost:7443"
    assert agent_of("::1").address == "[::1]:7443"
    with pytest.raises(MreleaseError, match=r"does not resolve|cannot be looked up|within") as caught:
        agent_of("no-such-host.invalid", deadline=5)
    assert isinstance(caught.value, NoAgent | OrchestratorUnavailable)
    monkeypatch.setenv("MRELEASE_AGENT_TEMPLATE", "agents.example.org:7443")
    with pytest.raises(InvalidInventory, match=r"write where \{node\} goes"):
        agent_of("localhost")


def test_who_was_asked_and_what_each_said() -> None:
    with pytest.raises(NoAgent) as caught:
        agent_of("node99")
    for said in (
        "environment: $MRELEASE_AGENTS is not set",
        "file: there is no ",
        "local: this node is",
        "dns: $",
        "kubernetes: there is no",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize("node", ["", "a b", "a/b", "a\n", "x" * 300, "é", "-rf", "a;b", None, 7])
def test_what_cannot_be_the_name_of_a_node_is_refused_before_anybody_is_asked(node: object) -> None:
    with pytest.raises(NoAgent, match="cannot be the name of a node"):
        agent_of(node)  # type: ignore[arg-type]


def test_the_order_can_be_chosen_and_is_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inventory(home)
    monkeypatch.setenv("MRELEASE_AGENTS", "node01=127.0.0.1:1")
    monkeypatch.setenv("MRELEASE_ADDRESSES", "file, environment")
    assert agent_of("node01").address == "node01.example.org:7443"
    monkeypatch.setenv("MRELEASE_ADDRESSES", "file,consul")
    with pytest.raises(InvalidInventory, match=r"'consul' finds no agents.*known are environment, file"):
        agent_of("node01")


PLUGIN = """
import threading
from mrelease.addresses import Agent
from mrelease.errors import NoAgent, OrchestratorUnavailable

class Good:
    closed = 0
    def find(self, node, deadline):
        if node != "far":
            raise NoAgent("the rack does not have it")
        return Agent("10.9.9.9:7443", None, "far")
    def close(self):
        type(self).closed += 1

class Rubbish(Good):
    def find(self, node, deadline):
        return {"far": "10.9.9.9:7443", "bad": Agent("not an address"), "tls": Agent("h:1", "secret"), "exit": None}[node]

class Exits(Good):
    def find(self, node, deadline):
        raise SystemExit("token=hunter2")

class Hangs(Good):
    def find(self, node, deadline):
        threading.Event().wait()

class Down(Good):
    def find(self, node, deadline):
        raise OrchestratorUnavailable("the rack is down", "wait")
"""


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with finders that is installed."""
    (tmp_path / "rack_plugin.py").write_text(PLUGIN)
    info = tmp_path / "rack_plugin-2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rack-plugin\nVersion: 2\n")
    names = "\n".join(f"{kind.lower()} = rack_plugin:{kind}" for kind in ("Good", "Rubbish", "Exits", "Hangs", "Down", "Absent"))
    (info / "entry_points.txt").write_text(f"[mrelease.addresses]\n{names}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "rack_plugin", raising=False)


@pytest.mark.usefixtures("rack")
def test_a_plugin_is_asked_after_those_of_this_package_and_before_the_cluster() -> None:
    shipped = list(addresses.SHIPPED)
    assert addresses.order({})[:4] == tuple(shipped[:4])
    assert addresses.order({})[-1] == "kubernetes"
    with Addresses(["good"]) as found:
        assert found.agent_of("far") == Agent("10.9.9.9:7443", None, "far")
        kind = type(found.find("good"))
        with pytest.raises(NoAgent, match="good: the rack does not have it"):
            found.agent_of("near")
        found.close()
        assert kind.closed == 1  # type: ignore[attr-defined]


@pytest.mark.usefixtures("rack")
@pytest.mark.parametrize(
    ("name", "node", "error", "said"),
    [
        ("rubbish", "far", PluginFailed, "gave str, not an Agent"),
        ("rubbish", "bad", PluginFailed, "gave an agent that cannot be one"),
        ("rubbish", "tls", PluginFailed, "gave Agent, not an Agent as documented"),
        ("rubbish", "exit", PluginFailed, "gave NoneType"),
        ("rubbish", "other", PluginFailed, r"KeyError at rack_plugin.py:\d+"),
        ("exits", "far", PluginFailed, "SystemExit at rack_plugin.py"),
        ("hangs", "far", OrchestratorUnavailable, "gave no answer within"),
        ("down", "far", OrchestratorUnavailable, "the rack is down"),
        ("absent", "far", PluginFailed, "cannot be imported"),
    ],
)
def test_a_broken_or_hostile_one_is_an_error_that_names_it(name: str, node: str, error: type[MreleaseError], said: str) -> None:
    with Addresses([name]) as found, pytest.raises(error, match=said) as caught:
        found.agent_of(node, deadline=1.0 if name == "hangs" else 10)
    assert name in str(caught.value) or name == "down"
    assert "hunter2" not in str(caught.value), "what it raised may hold secrets"
