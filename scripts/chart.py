"""Make what follows from the Helm chart: its README from values.yaml, the kustomize base, and the golden files that tests compare with.

`python scripts/chart.py` writes them, with `--check` it compares and names what differs. Needs helm 3 in PATH or in `go env GOPATH`/bin.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "deploy/helm/mrelease"
BASE: Final = ROOT / "deploy/kustomize/base"
GOLDEN: Final = ROOT / "tests/deploy/golden"
#: Which values each golden file is rendered with.
CASES: Final[Mapping[str, tuple[str, ...]]] = {
    "default": (),
    "cert-manager": ("tls.mode=certManager",),
    "issuer": ("tls.mode=certManager", "tls.certManager.issuerRef.kind=ClusterIssuer", "tls.certManager.issuerRef.name=corporate"),
    "existing": ("tls.mode=existing", "tls.existing.serverSecret=agents"),
    "controller": (
        "controller.enabled=true",
        "controller.config.margin=10s",
        "controller.config.namespaces.kill={batch-*}",
        "podMonitor.enabled=true",
        "networkPolicy.from[0].namespaceSelector.matchLabels.team=nodes",
    ),
    "all": (
        "fullnameOverride=reaper",
        "image.digest=sha256:" + "0" * 64,
        "imagePullSecrets={registry}",
        "config.log_level=debug",
        "tls.clients={mrelease-admin,kueue}",
        "audit.enabled=false",
        "boost.cgroups=false",
        "podAnnotations.team=nodes",
        "podLabels.team=nodes",
        "maxUnavailable=1",
        "seccompProfile.type=Localhost",
        "seccompProfile.localhostProfile=mrelease.json",
        "networkPolicy.from[0].namespaceSelector.matchLabels.team=nodes",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=monitoring",
        "rbac.subjects[0].kind=Group",
        "rbac.subjects[0].name=sre",
        "rbac.subjects[0].apiGroup=rbac.authorization.k8s.io",
        "podMonitor.enabled=true",
        "podMonitor.labels.release=prometheus",
        "prometheusRule.enabled=true",
        "prometheusRule.runbookBaseUrl=https://docs.example/runbooks/",
    ),
}
_MADE: Final = re.compile(r"^(  (?:ca|tls)\.(?:crt|key)): \S+$", re.MULTILINE)


def helm() -> str | None:
    """Path of helm; None where it is not installed."""
    found = shutil.which("helm")
    if found is None and shutil.which("go"):
        place = Path(subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip(), "bin/helm")
        found = str(place) if place.exists() else None
    return found


def render(*values: str, tests: bool = True) -> str:
    """What `helm template` makes of the chart with ``values``, keys and certificates masked. Raises SystemExit with what helm says."""
    command = [
        str(helm()),
        "template",
        "mrelease",
        str(CHART),
        "--namespace",
        "mrelease",
        "--kube-version",
        "1.34.0",
        *(() if tests else ("--skip-tests",)),
    ]
    for value in values:
        command += ["--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return _MADE.sub(r"\1: bWFkZQ==", done.stdout)


def readme() -> str:
    """README.md of the chart: what it does, and a row for every value."""
    rows = "".join(f"| `{name}` | `{default}` | {text} |\n" for name, default, text in _values())
    return f"""# mrelease on Kubernetes

An agent on every node, which callers with a certificate of the release's authority reach by mutual TLS. How to install and use it:
[docs/kubernetes.md](../../../docs/kubernetes.md).

<!-- not run: needs a cluster; tests/e2e/k8s installs it in a real one -->
```console
$ helm install mrelease deploy/helm/mrelease --namespace mrelease --create-namespace --wait
$ helm test mrelease --namespace mrelease
$ kubectl mrelease doctor
```

The namespace must allow privileged pods (`pod-security.kubernetes.io/enforce: privileged`): the agents share the node's PID namespace.

## Values

| value | default | meaning |
|---|---|---|
{rows}"""


def _values() -> Iterator[tuple[str, str, str]]:
    path: list[tuple[int, str]] = []
    text: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.match(r"\s*# (-- )?(.*)", line)
        if comment:
            text = [comment[2]] if comment[1] else [*text, comment[2]] if text else []
            continue
        key = re.match(r"(\s*)([A-Za-z]+):\s*(.*)", line)
        if key and not line.lstrip().startswith("- "):
            indent = len(key[1])
            path = [*((depth, name) for depth, name in path if depth < indent), (indent, key[2])]
            if text:
                yield ".".join(name for _, name in path), key[3] or "see values.yaml", " ".join(text)
        text = []


def kustomization() -> str:
    """kustomization.yaml of the base."""
    return """apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
# Rendered from the Helm chart by scripts/chart.py. The Secret mrelease-server is yours to make: docs/kubernetes.md.
namespace: mrelease
resources: [namespace.yaml, mrelease.yaml]
"""


def files() -> Mapping[Path, str]:
    """Every file that follows from the chart."""
    made = {CHART / "README.md": readme(), BASE / "kustomization.yaml": kustomization()}
    made[BASE / "mrelease.yaml"] = render("tls.mode=existing", "tls.existing.serverSecret=mrelease-server", tests=False)
    return made | {GOLDEN / f"{name}.yaml": render(*values) for name, values in CASES.items()}


def main() -> int:
    """Write, or with --check compare. Returns 1 where something differs, 2 where helm is missing."""
    if helm() is None:
        print("helm 3 is not installed: go install helm.sh/helm/v3/cmd/helm@v3.19.2", file=sys.stderr)
        return 2
    made = files()
    differing = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in differing:
            print(f"{path.relative_to(ROOT)} does not follow from the chart: run scripts/chart.py", file=sys.stderr)
        return bool(differing)
    for path in differing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
