"""The Helm chart: what it renders is valid, is what is committed, and grants the agent what it needs and nothing more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import chart  # type: ignore[import-not-found, unused-ignore]

pytestmark = pytest.mark.skipif(chart.helm() is None, reason="helm 3 is not installed: go install helm.sh/helm/v3/cmd/helm@v3.19.2")
Manifest = dict[str, Any]
VERSIONS = ("1.27", "1.31", "1.34", "1.37")


def manifests(case: str) -> list[Manifest]:
    return [found for found in yaml.safe_load_all((chart.GOLDEN / f"{case}.yaml").read_text()) if found]


def one(case: str, kind: str, name: str = "") -> Manifest:
    (found,) = [made for made in manifests(case) if made["kind"] == kind and name in ("", made["metadata"]["name"])]
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(chart.helm()), *arguments], capture_output=True, text=True, check=False)


def test_what_is_committed_follows_from_the_chart() -> None:
    differing = [str(path.relative_to(chart.ROOT)) for path, text in chart.files().items() if not path.exists() or path.read_text() != text]
    assert not differing, "run scripts/chart.py"


@pytest.mark.parametrize("case", chart.CASES)
def test_helm_lint(case: str) -> None:
    values = [word for value in chart.CASES[case] for word in ("--set", value)]
    done = helm("lint", "--strict", "--kube-version", "1.34.0", str(chart.CHART), *values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", chart.CASES)
def test_every_object_is_valid_by_the_schemas_of_kubernetes(case: str, version: str) -> None:
    known = [made for made in manifests(case) if "cert-manager.io" not in made["apiVersion"] and "coreos.com" not in made["apiVersion"]]
    assert len(known) >= 8
    for made in known:
        kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("tls.mode=off", "tls/mode"),
        ("image.tga=1", "tga"),
        ("resources.limits.cpu=1", "resources/limits"),
        ("capabilities={ALL}", "capabilities"),
        ("grpcPort=80", "grpcPort"),
        ("audit.hostPath=relative", "hostPath"),
        ("policy.rules=all", "rules"),
        ("tls.clients={../x}", "clients"),
        ("controller.config.margn=1s", "margn"),
        ("controller.config.limits.total=0", "total"),
        ("controller.config.namespaces.kill={All}", "kill"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(value: str, named: str) -> None:
    done = helm("template", "mrelease", str(chart.CHART), "--kube-version", "1.34.0", "--set", value)
    assert done.returncode != 0
    assert named in done.stderr


def test_existing_certificates_need_the_name_of_their_secret() -> None:
    existing = ("template", "mrelease", str(chart.CHART), "--kube-version", "1.34.0", "--set", "tls.mode=existing")
    done = helm(*existing)
    assert done.returncode != 0
    assert "tls.existing.serverSecret: name the Secret" in done.stderr
    done = helm(*existing, "--set", "tls.existing.serverSecret=agents", "--set", "controller.enabled=true")
    assert done.returncode != 0
    assert "controller.existingSecret: name the Secret" in done.stderr


def pods(case: str) -> Iterator[Mapping[str, Any]]:
    for made in manifests(case):
        if made["kind"] == "DaemonSet":
            yield made["spec"]["template"]["spec"]
        elif made["kind"] == "Pod":
            yield made["spec"]


def test_without_the_controller_nothing_of_it_is_there() -> None:
    assert "controller" not in (chart.GOLDEN / "default.yaml").read_text()


def test_the_controller_gets_what_it_needs_and_nothing_more() -> None:
    pod = one("controller", "Deployment")["spec"]["template"]["spec"]
    assert {"hostPID", "hostNetwork", "hostIPC"} & pod.keys() == set()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert all("hostPath" not in volume for volume in pod["volumes"])
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    allowed = {
        (group, resource, verb, tuple(rule.get("resourceNames", ())))
        for role in (one("controller", "ClusterRole", "mrelease-mrelease-controller"), one("controller", "Role", "mrelease-controller"))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == {
        *(("", "pods", verb, ()) for verb in ("get", "list", "watch")),
        *(("", "namespaces", verb, ()) for verb in ("list", "watch")),
        *(("events.k8s.io", "events", verb, ()) for verb in ("create", "patch")),
        *(("discovery.k8s.io", "endpointslices", verb, ()) for verb in ("list", "watch")),
        *(("coordination.k8s.io", "leases", verb, ("mrelease-controller",)) for verb in ("get", "update")),
    }


def policy(case: str) -> list[Mapping[str, Any]]:
    (text,) = [made["data"]["policy.yaml"] for made in manifests(case) if made["kind"] == "ConfigMap" and "policy.yaml" in made["data"]]
    rules: list[Mapping[str, Any]] = yaml.safe_load(text)["rules"]
    return rules


def test_agents_let_the_controller_kill_only_where_its_configuration_does() -> None:
    rules = [rule for rule in policy("controller") if rule["callers"] == [{"cn": "mrelease-controller"}]]
    assert [(rule["methods"], rule["targets"]) for rule in rules] == [
        (["Release", "ListProcesses"], {"kinds": ["pod", "container"]}),
        (["KillAndRelease"], {"kinds": ["pod"], "namespaces": ["batch-*"]}),
    ]
    assert not any("controller" in str(rule) for rule in policy("default"))


@pytest.mark.parametrize("case", chart.CASES)
def test_the_policy_is_one_that_the_agent_takes(case: str) -> None:
    pytest.importorskip("mrelease_agent")
    from mrelease_agent.guard.policy.load import load

    load(yaml.safe_dump({"version": 1, "rules": policy(case)}).encode(), "policy.yaml")


def test_the_configuration_of_the_controller_is_one_that_it_takes() -> None:
    pytest.importorskip("msgspec")
    from mrelease_controller.config import Settings, read

    (text,) = [found["data"]["controller.yaml"] for found in manifests("controller") if "controller.yaml" in found.get("data", {})]
    settings = read(text.encode(), "controller.yaml")
    assert (settings.margin, settings.kill) == (10.0, ("batch-*",))
    # The schema of the values knows every key, and the defaults are those that the code has.
    assert read(b"version: 1\n", "controller.yaml") == Settings()


def test_the_agent_gets_what_it_needs_and_nothing_more() -> None:
    daemon = one("default", "DaemonSet")["spec"]
    pod = daemon["template"]["spec"]
    assert pod["hostPID"] is True
    assert "hostNetwork" not in pod
    assert "hostIPC" not in pod
    assert pod["automountServiceAccountToken"] is False
    assert pod["priorityClassName"] == "system-node-critical"
    assert {"operator": "Exists"} in pod["tolerations"]
    assert daemon["updateStrategy"]["rollingUpdate"]["maxSurge"] == 0
    (container,) = pod["containers"]
    assert "cpu" not in container["resources"]["limits"]
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["KILL", "SYS_NICE", "SYS_PTRACE", "IPC_LOCK"]},
    }
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["/run", "/var/lib/mrelease", "/sys/fs/cgroup"]


@pytest.mark.parametrize("case", chart.CASES)
def test_no_pod_of_the_chart_but_the_controllers_has_a_token(case: str) -> None:
    assert all(pod["automountServiceAccountToken"] is False for pod in pods(case))
    bound = [subject["name"] for made in manifests(case) for subject in made.get("subjects", ())]
    assert "mrelease" not in bound


def test_callers_may_read_their_own_secret_and_no_other() -> None:
    role = one("all", "Role")
    (secrets,) = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert secrets["resourceNames"] == ["reaper-client-mrelease-admin", "reaper-client-kueue"]
    assert secrets["verbs"] == ["get"]
    cluster = one("all", "ClusterRole")
    assert {verb for rule in cluster["rules"] for verb in rule["verbs"]} <= {"get", "list", "watch"}


def test_the_configuration_is_one_that_the_agent_takes(tmp_path: Path) -> None:
    pytest.importorskip("mrelease_agent")
    from mrelease_agent.config import load

    for case in chart.CASES:
        maps = [made for made in manifests(case) if made["kind"] == "ConfigMap"]
        (text,) = [made["data"]["mrelease.yaml"] for made in maps if "mrelease.yaml" in made["data"]]
        path = tmp_path / f"{case}.yaml"
        path.write_text(text)
        config = load(["--config", str(path)], {"MRELEASE_NODE_NAME": "node1"})
        assert config.tls_listen == "0.0.0.0:7443"
        assert config.node_name == "node1"
