"""``mrelease fleet`` and ``mrelease kill -l``: whom they ask, what they print, and their exit codes. Agents and API server are scripted."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path

import pytest
import yaml

from mrelease.cli import targets
from mrelease.v1 import memory_pb2, node_service_pb2, result_pb2, target_pb2
from support.kube_api import fake_api
from support.sdk_cli import Cli, cli_in
from support.sdk_fake_agent import FakeAgent, fake_agent

_MIB = 1 << 20


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    return cli_in(capsys)


@pytest.fixture
def agents(tmp_path: Path) -> Generator[dict[str, FakeAgent]]:
    """Two that work, the second with more to give back; the first one's boost does not work."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with fake_agent(tmp_path / "a") as a, fake_agent(tmp_path / "b") as b:
        for name, agent, size in (("n1", a, 1), ("n2", b, 8)):
            agent.script("GetNode", node_service_pb2.GetNodeResponse(node=described(name)))
            agent.script("ListProcesses", listed(size * _MIB))
        yield {"n1": a, "n2": b}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MRELEASE_AGENT", "MRELEASE_INVENTORY", "MRELEASE_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def described(name: str, *, able: bool = True, version: str = "1.0") -> node_service_pb2.Node:
    return node_service_pb2.Node(
        identity=result_pb2.NodeIdentity(name=name, boot_id=f"boot of {name}"),
        kernel_release="6.18",
        agent_version=version,
        memory=memory_pb2.NodeMemory(total_bytes=64 * _MIB, available_bytes=16 * _MIB),
        capabilities=[
            node_service_pb2.Capability(feature=node_service_pb2.FEATURE_PROCESS_MRELEASE, available=able, reason="" if able else "ENOSYS"),
            node_service_pb2.Capability(feature=node_service_pb2.FEATURE_BOOST_LIFT, available=name != "n1", reason="no CAP_SYS_NICE"),
        ],
    )


def listed(size: int) -> node_service_pb2.ListProcessesResponse:
    victim = target_pb2.ProcessTarget(pid=4711, pidfd_inode=20417)
    return node_service_pb2.ListProcessesResponse(
        processes=[
            node_service_pb2.ProcessInfo(process=victim, command="trainer", reclaimable_bytes=size),
            node_service_pb2.ProcessInfo(process=target_pb2.ProcessTarget(pid=1), reclaimable_bytes=99 * _MIB, protection="pid 1"),
        ]
    )


def inventory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, agents: dict[str, FakeAgent], **more: str) -> None:
    groups = [{"nodes": name, "address": agent.address, "name": name, **more} for name, agent in agents.items()]
    file = tmp_path / "inventory.yaml"
    file.write_text(yaml.safe_dump({"groups": groups}))
    file.chmod(0o600)
    monkeypatch.setenv("MRELEASE_INVENTORY", str(file))


def test_doctor_asks_the_whole_inventory(cli: Cli, agents: dict[str, FakeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inventory(monkeypatch, tmp_path, agents)
    done = cli("fleet", "doctor")
    assert done.code == 0, done
    rows = [line.split(maxsplit=4) for line in done.lines]
    assert rows[0] == ["NODE", "STATE", "AGENT", "KERNEL", "WHY"]
    assert rows[1][:4] == ["n1", "off", "1.0", "6.18"]
    assert "BOOST_LIFT: no CAP_SYS_NICE" in rows[1][4]
    assert rows[2] == ["n2", "ok", "1.0", "6.18"]
    assert done.lines[-1] == "2 nodes: 1 ok, 1 off"


def test_doctor_says_where_there_is_no_agent_and_where_another_one(
    cli: Cli, agents: dict[str, FakeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agents["n2"].script("GetNode", node_service_pb2.GetNodeResponse(node=described("n9")))
    inventory(monkeypatch, tmp_path, agents)
    done = cli("fleet", "doctor", "-o", "json")
    found = {each["name"]: each for each in done.data["nodes"]}
    assert found["n1"]["state"] == "off"
    assert found["n2"]["state"] == "missing"
    assert found["n2"]["error"]["reason"] == "NODE_MISMATCH"
    assert done.code == 5
    address = agents["n1"].address
    listed = tmp_path / "list"
    listed.write_text(f"# two\nn1 {address}  # there\n\ngone unix://{tmp_path}/nobody\n")
    done = cli("fleet", "doctor", "--agents", str(listed))
    assert done.code == 6
    assert done.lines[-1] == "2 nodes: 1 off, 1 missing"
    assert "there is no socket" in done.out


def test_doctor_tells_a_kernel_that_is_not_able_and_different_versions(cli: Cli, agents: dict[str, FakeAgent], tmp_path: Path) -> None:
    agents["n2"].script("GetNode", node_service_pb2.GetNodeResponse(node=described("n2", able=False, version="0.9")))
    listed = tmp_path / "list"
    listed.write_text("".join(f"{name} {agent.address}\n" for name, agent in agents.items()))
    done = cli("fleet", "doctor", "--agents", str(listed))
    assert done.code == 7
    assert done.lines[-2:] == ["2 nodes: 1 off, 1 missing", "different versions: 1 of 1.0, 1 of 0.9"]
    assert cli("fleet", "doctor", "--agents", str(listed), "n1").code == 0, "only what is named"
    done = cli("fleet", "doctor", "--agents", str(listed), "n3")
    assert done.code == 6
    assert "there is no node n3" in done.err


def test_top_has_the_node_with_most_to_give_first(
    cli: Cli, agents: dict[str, FakeAgent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{name} {agent.address}\n" for name, agent in agents.items())))
    done = cli("fleet", "top", "--agents", "-")
    assert done.code == 0, done
    assert [line.split()[0] for line in done.lines[1:3]] == ["n2", "n1"]
    assert "4711:20417 trainer 8.00 MiB" in done.lines[1]
    assert done.lines[-1] == "total: 9.00 MiB reclaimable on 2 of 2 nodes", "what is protected would not die"
    inventory(monkeypatch, tmp_path, {**agents, "gone": FakeAgent(f"unix://{tmp_path}/nobody")})
    done = cli("fleet", "top", "--limit", "1", "-o", "json")
    assert [each["name"] for each in done.data["nodes"]] == ["n2"]
    assert done.data["nodes"][0]["reclaimable_bytes"] == 8 * _MIB
    assert [each["name"] for each in done.data["errors"]] == ["gone"]
    assert done.code == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "/nowhere/list"], "cannot be read: No such file"),
        (["--agents", "-", "--kubernetes"], "give one of"),
        (["-l", "a=b"], "--kubernetes"),
        (["--kubernetes", "-l", ""], "--kubernetes"),
        (["--agent", "unix:///run/x.sock"], "one agent"),
    ],
)
def test_what_does_not_go_together(cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("fleet", "top", *arguments)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(("lines", "said"), [("a b c\n", "line 1"), ("x 127.0.0.1:1\nx 127.0.0.1:2\n", "twice"), ("", "no agent")])
def test_a_list_is_read_whole_or_not_at_all(cli: Cli, monkeypatch: pytest.MonkeyPatch, lines: str, said: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    done = cli("fleet", "doctor", "--agents", "-")
    assert done.code in (2, 6)
    assert said in done.err


def test_without_an_inventory_it_says_how_to_name_agents(cli: Cli) -> None:
    done = cli("fleet", "doctor")
    assert done.code == 6
    assert "--agents FILE" in done.err


def test_nodes_of_a_cluster_by_their_labels(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with fake_api() as api:
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
        api.say("/api/v1/nodes", {"items": []})
        done = cli("fleet", "doctor", "--kubernetes", "-l", "pool=batch")
        assert done.code == 6
        assert "no node has these labels" in done.err
        assert any("labelSelector=pool%3Dbatch" in asked.path or "pool=batch" in str(asked) for asked in api.asked), api.asked


def test_kill_by_labels_names_the_pods_of_the_cluster(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with fake_api() as api:
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(tmp_path))
        api.say("/api/v1/namespaces/ns/pods", {"items": []})
        api.say("/api/v1/namespaces/ml/pods", {"items": []})
        for arguments, namespace in (((), "ns"), (("-n", "ml"), "ml")):
            done = cli("kill", "-l", "app=x,tier!=y", *arguments)
            assert done.code == 5, done
            assert f"there are no pods with app=x,tier!=y in namespace {namespace}" in done.err
    options = {"named": (), "selector": "a in (b, c)", "namespace": "ml"}
    assert targets.references(options)[0].query["selector"] == "a in (b, c)"


@pytest.mark.parametrize("arguments", [["-l", ""], ["-n", "ml"], ["-l", "a=b", "-n", ""]])
def test_an_empty_selector_is_not_every_pod(cli: Cli, arguments: list[str]) -> None:
    done = cli("kill", *arguments)
    assert done.code == 2
    assert "--namespace is of --selector" in done.err or "it would mean every pod" in done.err
