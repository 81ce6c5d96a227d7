"""A release of the Helm chart, as an administrator has it: installed, upgraded, tested and uninstalled by helm, called through a tunnel."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, CommandError, Pod
from e2e.cluster.cluster import PATIENCE, run
from mrelease import TLS, Client
from support.lab import Unavailable, until

CHART = Path(__file__).parents[3] / "deploy/helm/mrelease"
ADMIN = "mrelease-admin"
#: Common name of a caller that may kill in one namespace alone.
TEAM = "team"
PORT = 7443


def find_helm() -> str:
    """Path of helm. Raises Unavailable."""
    found = shutil.which("helm")
    if found is None and shutil.which("go"):
        place = Path(subprocess.run(["go", "env", "GOPATH"], capture_output=True, text=True, check=True).stdout.strip(), "bin/helm")
        found = str(place) if place.exists() else None
    if found is None:
        raise Unavailable("helm 3 is not installed: go install helm.sh/helm/v3/cmd/helm@v3.19.2")
    return found


@dataclass(frozen=True, slots=True)
class Release:
    """One release, named ``name``, in a namespace that exists. Its state on the nodes is below ``host_path``, so that two can be there."""

    cluster: Cluster
    name: str
    namespace: str
    helm: str

    @property
    def host_path(self) -> str:
        return f"/var/lib/mrelease-{self.namespace}"

    @property
    def server_name(self) -> str:
        return f"{self.full_name}.{self.namespace}.svc"

    @property
    def full_name(self) -> str:
        return self.name if "mrelease" in self.name else f"{self.name}-mrelease"

    @property
    def selector(self) -> str:
        """The labels of everything that the chart makes."""
        return f"app.kubernetes.io/name=mrelease,app.kubernetes.io/instance={self.name}"

    def run_helm(self, *arguments: str, values: Mapping[str, Any] | None = None, timeout: float = 2 * PATIENCE) -> str:
        """What helm printed. Raises CommandError."""
        stdin = "" if values is None else json.dumps(values)
        more = [] if values is None else ["--values", "-"]
        command = (self.helm, "--namespace", self.namespace, *arguments, *more)
        return run(*command, stdin=stdin, timeout=timeout, env=self.cluster.environment)

    def install(self, values: Mapping[str, Any]) -> None:
        """Install, and wait until every agent is ready. Raises CommandError with the events; then nothing is left."""
        try:
            self.run_helm("install", self.name, str(CHART), "--wait", f"--timeout={PATIENCE:g}s", values=self._own(values))
        except CommandError as error:
            said = self.cluster.kubectl("get", "events", "-n", self.namespace, "--sort-by=.lastTimestamp", "-o", "custom-columns=:.message")
            self.uninstall()
            raise CommandError(("helm", "install"), error.status, f"{error.output}\n{said}") from None

    def upgrade(self, values: Mapping[str, Any], *, wait: bool = True) -> None:
        """Upgrade to ``values`` alone. Raises CommandError."""
        waiting = ["--wait", f"--timeout={PATIENCE:g}s"] if wait else []
        self.run_helm("upgrade", self.name, str(CHART), *waiting, values=self._own(values))

    def uninstall(self) -> None:
        """Uninstall, and wait until no object is left. Raises CommandError, TimeoutError."""
        self.run_helm("uninstall", self.name, "--wait", f"--timeout={PATIENCE:g}s")
        until(lambda: not self.objects(), "every object of the release to be gone")  # helm does not wait for pods of a DaemonSet

    def objects(self) -> list[str]:
        """Everything in the cluster that has the release's labels, and helm's own record of it: KIND/NAME."""
        found: list[str] = []
        for scope, where in (("true", ["-n", self.namespace]), ("false", [])):
            listed = self.cluster.kubectl("api-resources", "--verbs=list", f"--namespaced={scope}", "-o", "name").split()
            kinds = ",".join(kind for kind in listed if not kind.startswith("events"))
            names = self.cluster.kubectl("get", kinds, *where, "-l", self.selector, "-o", "name").split()
            # Another namespace may have a release of the same name: what belongs to no namespace has it in its own.
            found += [name for name in names if where or f"/{self.namespace}-" in name]
        recorded = ["get", "secrets", "-n", self.namespace, "-l", f"owner=helm,name={self.name}", "-o", "name"]
        return found + self.cluster.kubectl(*recorded).split()

    def agents(self) -> dict[str, Pod]:
        """The agent's pod on each node, by the node's name; those that are ending are left out."""
        selector = f"{self.selector},app.kubernetes.io/component=agent"
        items = self.cluster.get("pods", namespace=self.namespace, selector=selector)["items"]
        pods = [Pod.of(item) for item in items if "deletionTimestamp" not in item["metadata"]]
        return {pod.node: pod for pod in pods}

    def await_agents(self) -> None:
        """Wait until every agent is ready. Raises CommandError."""
        self.cluster.await_rollout(f"daemonset/{self.full_name}", self.namespace)

    def secret(self, name: str) -> dict[str, bytes]:
        """The contents of a Secret of the release: ``ca``, ``server``, ``client-NAME``. Raises CommandError."""
        data = self.cluster.get("secret", f"{self.full_name}-{name}", self.namespace)["data"]
        return {key: base64.b64decode(value) for key, value in data.items()}

    def tls(self, caller: str = ADMIN) -> TLS:
        """The certificate that the chart has made for a caller."""
        found = self.secret(f"client-{caller}")
        return TLS(ca=found["ca.crt"], cert=found["tls.crt"], key=found["tls.key"], server_name=self.server_name)

    @contextlib.contextmanager
    def client(self, node: str, caller: str = ADMIN, *, timeout: float = 30) -> Generator[Client, None, None]:
        """A caller of the agent of a node, through a tunnel of the API server's."""
        pod = self.agents()[node]
        with (
            self.cluster.port_forward(f"pod/{pod.name}", PORT, self.namespace) as port,
            Client(f"127.0.0.1:{port}", tls=self.tls(caller), timeout=timeout) as client,
        ):
            yield client

    def audit(self, node: str) -> Iterator[dict[str, Any]]:
        """The audit log of a node's agent, record by record."""
        said = self.cluster.exec(self.agents()[node], "mrelease", "audit", "show", "-o", "json", "/var/lib/mrelease/audit")
        return (json.loads(line) for line in said.splitlines())

    def touch(self) -> None:
        """Have kubelet look at the agents' pods now: what is mounted from Secrets and ConfigMaps is else up to a minute old."""
        for pod in self.agents().values():
            self.cluster.kubectl("annotate", "pod", pod.name, "-n", self.namespace, "--overwrite", f"e2e/touched={uuid.uuid4()}")

    def await_gone(self, pod: Pod) -> None:
        """Wait until a pod is not there any more, or not with this uid."""
        until(lambda: pod.uid not in {found.uid for found in self.cluster.pods(pod.namespace)}, f"pod {pod.name} to be gone")

    def _own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        repository, _, tag = self.cluster.image.rpartition(":")
        audit = {**values.get("audit", {}), "hostPath": self.host_path}
        return {**values, "image": {"repository": repository, "tag": tag}, "audit": audit}
