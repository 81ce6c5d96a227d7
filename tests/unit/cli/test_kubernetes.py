"""``kubectl mrelease`` without a cluster: what it refuses, how it fails, who dies first. tests/e2e/k8s has a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mrelease import MreleaseError, ProcessInfo, errors
from mrelease.cli import main
from mrelease.cli.kube import completing
from mrelease.cli.kube import main as kube
from mrelease.cli.kube.fanout import failures
from mrelease.cli.kube.reclaiming import in_order
from mrelease.resolvers.kubernetes import PodObject
from support.kube_api import FakeApi, fake_api

PLUGIN = Path(sys.executable).with_name("kubectl-mrelease")
PODS = "/api/v1/namespaces/ns/pods"


def pod(name: str, qos: str = "BestEffort", priority: int = 0, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "ns", "name": name, "uid": f"uid-{name}"},
        "spec": {"nodeName": "n1", "priority": priority},
        "status": {"phase": "Running", "qosClass": qos, **status},
    }


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeApi]:
    with fake_api() as made:
        monkeypatch.setenv("KUBECONFIG", made.kubeconfig(tmp_path))
        made.say(PODS, {"items": [pod("a"), pod("b")]})
        made.say("/api/v1/nodes/n1", {"metadata": {"name": "n1"}, "status": {"nodeInfo": {"bootID": "boot"}}})
        yield made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kill"], "name what is meant"),
        (["kill", "a", "-l", "x"], "name pods, or choose them"),
        (["kill", "-l", ""], "--selector is empty"),
        (["kill", "a", "-c", ""], "--container is empty"),
        (["kill", ""], "name of a pod is empty"),
        (["kill", "pod/"], "name of a pod is empty"),
        (["kill", "svc/x"], "expected POD"),
        (["kill", "deploy/"], "expected POD"),
        (["kill", "a", "-A"], "give --namespace"),
        (["kill", "a", "-n", ""], "it is empty"),
        (["kill", "-A", "-n", "x", "a"], "give one of --namespace"),
        (["delete", "a", "-c", "x"], "a container cannot be deleted"),
        (["delete", "a", "--now", "--grace-period", "3"], "give one of --now"),
        (["kill", "a", "--signal", "TERM"], "give --grace too"),
        (["reclaim", "n1", "2Gi"], "say who may die"),
        (["reclaim", "n1", "-l", "x"], "say when to stop"),
        (["reclaim", "n1", "2Gi", "--available", "1Gi", "-l", "x"], "say when to stop"),
        (["kill", "a", "--tls-ca", "/x"], "give all of --tls-ca"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_what_is_not_clear_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kube.run(words) == 2
    assert said in capsys.readouterr().err


def test_several_pods_of_a_selector_need_a_yes(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert kube.run(["kill", "-l", "app=x"]) == 2
    assert "this would kill 2 pods (ns/a, ns/b): give --yes, or look first with --dry-run" in capsys.readouterr().err
    assert fake.asked[-1].path == "/api/v1/nodes/n1", "nobody was asked to kill"


def test_where_no_agent_is_the_table_says_so_of_each(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    fake.say("/api/v1/namespaces/mrelease/services", {"items": []})
    assert kube.run(["kill", "-l", "app=x", "--yes"]) == 6
    said = capsys.readouterr().out
    assert said.count("NO_AGENT") == 2
    assert said.count("install the Helm chart") == 1, "once for all"


def test_names_that_are_not_there_do_not_keep_the_others(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    fake.say(f"{PODS}/a", pod("a"))
    assert kube.run(["kill", "a", "nope", "-o", "json"]) == 6
    first, second = json.loads(capsys.readouterr().out)["results"]
    assert (first["pod"]["name"], first["error"]["reason"]) == ("a", "NO_AGENT")
    assert (second["pod"], second["name"], second["error"]["reason"]) == (None, "nope", "REFERENCE_NOT_FOUND")


def test_what_the_api_server_refuses(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    fake.say(f"{PODS}/a", {"message": 'pods "a" is forbidden'}, status=403)
    assert kube.run(["kill", "a"]) == 4
    assert 'kubectl mrelease: pods "a" is forbidden' in capsys.readouterr().err


def test_impersonation_and_context_are_kubectls(fake: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert kube.run(["kill", "a", "--as", "jane", "--as-group", "x", "--as-group", "y"]) == 5
    assert fake.asked[-1].headers["Impersonate-User"] == "jane"
    assert kube.run(["--context", "other", "kill", "a"]) == 6
    assert "there is no context 'other'" in capsys.readouterr().err


@pytest.mark.usefixtures("fake")
def test_mrelease_kubernetes_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--kubernetes", "kill", "nope"]) == 5
    assert "mrelease --kubernetes: " in capsys.readouterr().err
    assert main.run(["kill", "--kubernetes", "nope"]) == 2
    assert main.run(["-o", "json", "--kubernetes", "kill", "x"]) == 2
    assert "--kubernetes is the first word" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(kube.kube.commands)), ["top", "pods"], ["top", "nodes"]])
def test_every_command_has_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert kube.run([*command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"Usage: kubectl mrelease {' '.join(command)}".rstrip() in said
    assert max(map(len, said.splitlines())) <= 200


def test_the_plugin_is_a_program_that_kubectl_finds() -> None:
    done = subprocess.run([PLUGIN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mrelease ")


def test_without_its_libraries_it_says_how_to_install_them() -> None:
    script = (
        "import sys; sys.modules['click'] = None\n"
        "try:\n from mrelease.cli.kube.__main__ import main; main()\n"
        "except SystemExit as end: print(end.code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
    assert "pip install 'mrelease[cli,kubernetes]'" in done.stderr


def info(uid: str, size: int, protection: str = "") -> ProcessInfo:
    # Only what the order depends on.
    made = object.__new__(ProcessInfo)
    for name, value in {"pod_uid": f"uid-{uid}", "reclaimable_bytes": size, "protection": protection}.items():
        object.__setattr__(made, name, value)
    return made


def test_who_dies_first() -> None:
    made = [
        *(pod("guaranteed", "Guaranteed"), pod("urgent", priority=1000), pod("small"), pod("burstable", "Burstable")),
        *(pod("big"), pod("least", "Guaranteed", priority=-1), pod("sandbox")),
    ]
    processes = [info("small", 1), info("big", 3), info("big", 4), info("sandbox", 99, "sandbox"), info("burstable", 100)]
    ordered = [each.name for each in in_order([PodObject.of(item) for item in made], processes)]
    assert ordered == ["least", "big", "small", "sandbox", "burstable", "guaranteed", "urgent"]


def test_nodes_that_failed_alike_share_a_line() -> None:
    same: list[tuple[str, MreleaseError]] = [(name, errors.NoAgent("none", "wait")) for name in ("n1", "n2")]
    assert failures([*same, ("n3", errors.NoAgent("other", "wait"))]) == ["n1, n2: none (wait)", "n3: other (wait)"]


def test_tab_completes_commands_options_and_pods_as_kubectl_asks_for_them(fake: FakeApi, tmp_path: Path) -> None:
    """kubectl runs ``kubectl_complete-mrelease`` with the words typed: a word a line, then cobra's directive (4: no files)."""
    word, *directive = completing.words(["ki"])
    assert (word.startswith("kill\tKill the processes of pods"), directive) == (True, [":4"])
    assert [line.partition("\t")[0] for line in completing.words(["kill", "--dry"])] == ["--dry-run", ":4"]
    assert completing.words(["kill", "-n", "ns", ""]) == ["a", "b", ":4"]
    assert completing.words(["kill", "-n", "ns", "b"]) == ["b", ":4"]
    fake.say("/api/v1/nodes", {"items": [{"metadata": {"name": "n1"}}, {"metadata": {"name": "m2"}}]})
    assert completing.words(["watch", "n"]) == ["n1", ":4"]


def test_tab_completes_nothing_and_says_nothing_where_no_cluster_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    program = PLUGIN.with_name("kubectl_complete-mrelease")
    done = subprocess.run([sys.executable, program, "kill", ""], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (":4\n", "")
