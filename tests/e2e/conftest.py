"""What the tests on a cluster share. They have the mark `cluster`: `make e2e` runs them, `make test` does not."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from e2e.cluster import Cluster, connect, start


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster of ``E2E_KUBECONFIG``, else the one of this machine, which is started where it is not up, and stays up."""
    kubeconfig = os.environ.get("E2E_KUBECONFIG")
    return connect(Path(kubeconfig)) if kubeconfig else start()


@pytest.fixture
def namespace(cluster: Cluster) -> Generator[str, None, None]:
    """A namespace of the test's own, deleted with all that is in it."""
    with cluster.namespace() as name:
        yield name
