"""A node on which little memory is left to be requested, and the examples as people run them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster import Cluster, hog
from e2e.cluster.cluster import PATIENCE
from e2e.k8s.release import PORT, Release
from mrelease.resolvers.kubernetes import Kubernetes, PodObject
from support.lab import until

EXAMPLES = Path(__file__).parents[3] / "examples"
#: Below that of everybody who does not say: whoever else is on the node is in no danger.
LOWEST, LOW, HIGH = -40, -30, -10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Example:
    """One that runs."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text()

    def await_said(self, text: str, times: int = 1) -> None:
        """Wait until it says so, or has said so often. Raises TimeoutError with what it has said."""

        def is_said() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"it ended with {self.process.returncode}: {self.said()}")
            return self.said().count(text) >= times

        try:
            until(is_said, f"it to say {text!r}", 60)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.said()}") from None


@contextlib.contextmanager
def running(name: str, *arguments: str, **environment: str) -> Generator[Example]:
    """An example as a process, which ends by SIGTERM, and well."""
    with tempfile.TemporaryDirectory(prefix="mrelease-example-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as file:
            command = [sys.executable, str(EXAMPLES / name), *arguments]
            process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
        example = Example(process, log)
        try:
            yield example
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, example.said()
        finally:
            process.kill()
            process.wait()


def preemption(release: Release, namespace: str, *more: str) -> contextlib.AbstractContextManager[Example]:
    """examples/preemption.py as an administrator, for pods of priority HIGH."""
    arguments = ("--namespace", namespace, f"--min-priority={HIGH}", "--agents", release.namespace, *more)
    return running("preemption.py", *arguments, KUBECONFIG=str(release.cluster.kubeconfig))


def memory_floor(release: Release, node: str, caller: str, folder: Path, *more: str) -> contextlib.AbstractContextManager[Example]:
    """examples/memory_floor.py for a node, as a caller of the release."""
    for file, content in release.secret(f"client-{caller}").items():
        (folder / file).write_bytes(content)
    environment = {"AGENT": f"{release.agents()[node].address}:{PORT}", "CLIENT_SERVER_NAME": release.server_name}
    environment |= {f"CLIENT_{key}": str(folder / file) for key, file in (("CA", "ca.crt"), ("CERT", "tls.crt"), ("KEY", "tls.key"))}
    return running("memory_floor.py", *more, **{f"MRELEASE_{name}": value for name, value in environment.items()})


@contextlib.contextmanager
def priorities(cluster: Cluster, prefix: str) -> Generator[None]:
    """PriorityClasses ``PREFIX-lowest``, ``-low`` and ``-high``, and ``-preempting``, the only one for which the scheduler preempts."""
    classes = {"lowest": (LOWEST, "Never"), "low": (LOW, "Never"), "high": (HIGH, "Never"), "preempting": (HIGH, "PreemptLowerPriority")}
    objects = [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"{prefix}-{name}"},
            "value": value,
            "preemptionPolicy": policy,
        }
        for name, (value, policy) in classes.items()
    ]
    cluster.apply(*objects)
    try:
        yield
    finally:
        cluster.kubectl("delete", "priorityclass", *(f"{prefix}-{name}" for name in classes))


def free_mib(cluster: Cluster, node: str) -> int:
    """How much memory of a node nobody has requested, as soon as pods of the priorities above, from before, are gone."""
    with Kubernetes(kubeconfig=str(cluster.kubeconfig)) as kube:

        def pods() -> list[PodObject]:
            return kube.pods("", time.monotonic() + 30, node=node)

        until(lambda: all(each.priority not in (LOWEST, LOW, HIGH) for each in pods()), "earlier pods to be gone", PATIENCE)
        taken = sum(each.memory_request_bytes for each in pods() if not each.is_finished)
        return (kube.nodes([node], time.monotonic() + 30)[node].allocatable_bytes - taken) // MIB


def wants(mib: int) -> dict[str, Any]:
    """Resources of a container that requests so much, whatever it takes."""
    return {"requests": {"memory": f"{mib}Mi"}}


def pod(cluster: Cluster, name: str, mib: int, node: str, priority_class: str, requested_mib: int, **spec: Any) -> dict[str, Any]:
    """A pod of a class that takes ``mib`` and requests more."""
    made = hog(name, mib, cluster.image, node=node, resources=wants(requested_mib))
    more: Mapping[str, Any] = {"priorityClassName": priority_class, **spec}
    return {**made, "spec": {**made["spec"], **more}}
