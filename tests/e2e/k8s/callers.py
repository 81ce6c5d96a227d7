"""Callers of a release: accounts of the cluster with exactly the rights that the chart gives, or none."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Generator
from pathlib import Path

import pytest
import yaml

from e2e.k8s.release import Release
from mrelease.resolvers.kubernetes import Kubernetes

#: An account with the chart's Role and ClusterRole, and one with nothing.
CALLER, NOBODY = "caller", "nobody"


@pytest.fixture
def kubernetes(release: Release) -> Generator[Kubernetes]:
    """The resolver of an administrator."""
    with Kubernetes(kubeconfig=str(release.cluster.kubeconfig), agents=release.namespace) as made:
        yield made


@contextlib.contextmanager
def accounts(release: Release, namespace: str) -> Generator[None]:
    """CALLER and NOBODY in a namespace. What CALLER may do is what ``rbac.subjects`` of the chart gives, and nothing else."""
    role, cluster_role = f"{release.full_name}-caller", f"{release.namespace}-{release.full_name}-caller"
    subject = {"kind": "ServiceAccount", "name": CALLER, "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    bindings = [
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{scope}RoleBinding",
            "metadata": {"name": f"e2e-{namespace}", **({} if scope else {"namespace": release.namespace})},
            "roleRef": {"apiGroup": group, "kind": f"{scope}Role", "name": name},
            "subjects": [subject],
        }
        for scope, name in (("", role), ("Cluster", cluster_role))
    ]
    made = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": each, "namespace": namespace}} for each in (CALLER, NOBODY)]
    release.cluster.apply(*made, *bindings)
    try:
        yield
    finally:
        release.cluster.kubectl("delete", f"clusterrolebinding/e2e-{namespace}")
        release.cluster.kubectl("delete", f"rolebinding/e2e-{namespace}", "-n", release.namespace)


def token(release: Release, account: str, namespace: str) -> str:
    """A token of an account."""
    return release.cluster.kubectl("create", "token", account, "-n", namespace).strip()


def authority(release: Release) -> bytes:
    """The certificate of the API server's authority."""
    cluster = yaml.safe_load(release.cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    data = cluster.get("certificate-authority-data")
    return base64.b64decode(data) if data else Path(cluster["certificate-authority"]).read_bytes()


def kubeconfig_of(release: Release, account: str, namespace: str, directory: Path) -> str:
    """A kubeconfig with the token of an account and nothing else."""
    data = yaml.safe_load(release.cluster.kubeconfig.read_text())
    data["users"] = [{"name": entry["name"], "user": {"token": token(release, account, namespace)}} for entry in data["users"]]
    for entry in data["clusters"]:
        if "certificate-authority" in entry["cluster"]:
            entry["cluster"]["certificate-authority-data"] = base64.b64encode(authority(release)).decode()
            del entry["cluster"]["certificate-authority"]
    file = directory / f"{account}.conf"
    file.write_text(yaml.safe_dump(data))
    return str(file)
