"""Places that tests of groups get: a group in v1's memory hierarchy, or in v2, below which they make what they need."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import pytest

from mrelease_agent.linux import cgroup_tree
from support import lab
from support.places import Place


@contextlib.contextmanager
def _in(kind: str, within: contextlib.AbstractContextManager[lab.Cgroup]) -> Generator[Place]:
    tree = cgroup_tree.tree(kind)
    if tree is None:
        raise lab.Unavailable(f"no {kind} hierarchy is mounted")
    with within as group:
        here = Place(tree, group)
        with here.made:
            yield here


@pytest.fixture(params=["memory", "unified"])
def place(request: pytest.FixtureRequest) -> Generator[Place]:
    with _in(request.param, lab.cgroup("memory" if request.param == "memory" else "")) as here:
        yield here


@pytest.fixture
def memory_place() -> Generator[Place]:
    with _in("memory", lab.memory_cgroup()) as here:
        yield here


@pytest.fixture
def unified_place() -> Generator[Place]:
    with _in("unified", lab.cgroup()) as here:
        yield here
