"""A cluster as a test uses it: through kubectl alone, so that any cluster will do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import patience
from support.lab import Unavailable

from .nodes import LocalNode
from .pods import Pod

HERE = Path(__file__).resolve().parent
#: Seconds after which a test gives up waiting for the cluster.
PATIENCE = 90.0 * patience.FACTOR


class CommandError(Exception):
    """A command failed: what it was, and what it said."""

    def __init__(self, command: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {status}: {output.strip()}")
        self.status = status
        self.output = output


def run(*command: str, stdin: str = "", timeout: float = PATIENCE, env: Mapping[str, str] | None = None) -> str:
    """What a command printed. Raises CommandError where it fails, subprocess.TimeoutExpired where it takes longer than ``timeout`` s."""
    environment = None if env is None else {**os.environ, **env}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    if done.returncode != 0:
        raise CommandError(command, done.returncode, f"{done.stderr}{done.stdout}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, and who of it can be reached from this machine."""

    kubeconfig: Path
    #: The kubectl that speaks to it.
    program: str
    #: The agent's image, as a pod names it.
    image: str
    #: Whether its nodes are namespaces of this machine: then ``node`` works.
    is_local: bool

    @property
    def environment(self) -> dict[str, str]:
        """For programs that read a KUBECONFIG, such as helm."""
        return {"KUBECONFIG": str(self.kubeconfig), "PATH": f"{Path(self.program).parent}:{os.environ['PATH']}"}

    def kubectl(self, *arguments: str, stdin: str = "", timeout: float = PATIENCE) -> str:
        """What ``kubectl ARGUMENTS`` printed. Raises CommandError."""
        return run(self.program, "--kubeconfig", str(self.kubeconfig), *arguments, stdin=stdin, timeout=timeout)

    def get(self, kind: str, name: str = "", namespace: str = "", selector: str = "") -> dict[str, Any]:
        """An object, or without a name the list of them, as the API server has it. Raises CommandError."""
        arguments = ["get", kind, *([name] if name else []), *_in(namespace), *(["-l", selector] if selector else []), "-o", "json"]
        found: dict[str, Any] = json.loads(self.kubectl(*arguments))
        return found

    def apply(self, *objects: Mapping[str, Any], namespace: str = "") -> None:
        """Create or change objects. Raises CommandError."""
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", *_in(namespace), "-f", "-", stdin=items)

    def wait(self, what: str, condition: str, namespace: str = "", timeout: float = PATIENCE) -> None:
        """Wait as ``kubectl wait --for=CONDITION``: ``condition=Ready``, ``delete``, ``jsonpath=...``. Raises CommandError."""
        self.kubectl("wait", what, f"--for={condition}", *_in(namespace), f"--timeout={timeout:g}s", timeout=timeout + 10)

    def await_rollout(self, what: str, namespace: str = "", timeout: float = PATIENCE) -> None:
        """Wait until a DaemonSet or Deployment runs everywhere as it is written down. Raises CommandError."""
        self.kubectl("rollout", "status", what, *_in(namespace), f"--timeout={timeout:g}s", timeout=timeout + 10)

    def pod(self, name: str, namespace: str) -> Pod:
        """A pod as it is now. Raises CommandError."""
        return Pod.of(self.get("pod", name, namespace))

    def pods(self, namespace: str, selector: str = "") -> list[Pod]:
        """The pods of a namespace as they are now, those with these labels (``app=x``)."""
        return [Pod.of(item) for item in self.get("pods", namespace=namespace, selector=selector)["items"]]

    def run_pod(self, manifest: Mapping[str, Any], namespace: str) -> Pod:
        """Create a pod and wait until it is ready. Raises CommandError with what its events say."""
        name: str = manifest["metadata"]["name"]
        self.apply(manifest, namespace=namespace)
        try:
            self.wait(f"pod/{name}", "condition=Ready", namespace)
        except CommandError as error:
            said = self.kubectl("describe", "pod", name, *_in(namespace))
            raise CommandError(("kubectl", "wait", f"pod/{name}"), error.status, f"{error.output}\n{said}") from None
        return self.pod(name, namespace)

    def exec(self, pod: Pod, *command: str, container: str = "", timeout: float = PATIENCE) -> str:
        """What a command in a container printed. Raises CommandError."""
        where = ["-c", container] if container else []
        return self.kubectl("exec", pod.name, *_in(pod.namespace), *where, "--", *command, timeout=timeout)

    @contextlib.contextmanager
    def namespace(self, **labels: str) -> Generator[str, None, None]:
        """A namespace of the test's own. At the end it goes with all that is in it, and nobody waits for that."""
        name = f"e2e-{uuid.uuid4().hex[:8]}"
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        try:
            self._await_account(name)
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")

    @contextlib.contextmanager
    def port_forward(self, what: str, port: int, namespace: str) -> Generator[int, None, None]:
        """A port of this machine's loopback interface that leads to ``port`` of a pod. Raises CommandError where it cannot be made."""
        command = [
            self.program,
            "--kubeconfig",
            str(self.kubeconfig),
            "port-forward",
            what,
            f":{port}",
            "--address=127.0.0.1",
            *_in(namespace),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                assert process.stdout is not None
                readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
                said = process.stdout.readline().decode() if readable else f"nothing for {PATIENCE:g} s"
                found = re.search(r"Forwarding from \S+:(\d+) ->", said)
                if found is None:
                    raise CommandError(command, process.poll() or 0, said)
                yield int(found[1])
            finally:
                process.terminate()

    def node(self, name: str) -> LocalNode:
        """A node as this machine sees it. Raises Unavailable where the cluster's nodes are other machines."""
        if not self.is_local:
            raise Unavailable("looks into a node: only with the cluster of tests/e2e/cluster/up")
        return LocalNode.of(name)

    def _await_account(self, namespace: str) -> None:
        """Until it is there, pods are refused."""
        self.kubectl("wait", "serviceaccount/default", "--for=create", *_in(namespace), f"--timeout={PATIENCE:g}s")


def start() -> Cluster:
    """The cluster of this machine: started where it is not up, which takes minutes the first time. Raises CommandError."""
    shown = run(str(HERE / "up"), timeout=1800 * patience.FACTOR)
    cache = Path(os.environ.get("E2E_CACHE") or Path.home() / ".cache" / "mrelease-e2e")
    return Cluster(
        Path(shown.strip().splitlines()[-1]), str(cache / "bin" / "kubectl"), os.environ.get("E2E_IMAGE", "localhost/mrelease:1"), True
    )


def connect(kubeconfig: Path) -> Cluster:
    """Any other cluster. Its nodes have to be able to pull the image that ``E2E_IMAGE`` names, or to have it."""
    image = os.environ.get("E2E_IMAGE")
    if not image:
        raise Unavailable("E2E_KUBECONFIG names a cluster, and E2E_IMAGE no image of the agent that it can pull: set it")
    program = shutil.which("kubectl")
    if program is None:
        raise Unavailable("E2E_KUBECONFIG names a cluster, and there is no kubectl on PATH: install it")
    return Cluster(kubeconfig, program, image, False)


def _in(namespace: str) -> list[str]:
    return ["-n", namespace] if namespace else []
