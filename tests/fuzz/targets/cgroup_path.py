"""Paths of cgroups, whose names others choose: never an error, and nobody passes for another one by what he makes below his own cgroup."""

from __future__ import annotations

import re

from mrelease_agent.targets.cgroup_path import describe

_ID = re.compile("[0-9a-f]{64}")
_UID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
DELETED = " (deleted)"


def one_input(data: bytes) -> None:
    """A path; what comes after a NUL is made below it by who is in that cgroup."""
    shown, _, below = data.decode("utf-8", "surrogateescape").partition("\0")
    found = describe(shown)
    path = shown.removesuffix(DELETED)
    for name in (found.container_id, found.monitors):
        assert not name or (_ID.fullmatch(name) and name in path)
    assert not found.pod_uid or _UID.fullmatch(found.pod_uid)
    assert not (found.container_id and found.monitors)
    for place in (found.container_path, found.pod_path):
        assert not place or f"/{path.removeprefix('/')}/".startswith(f"{place}/")
    if below and found.container_id and found.pod_uid:
        inside = describe(f"{path}/{below.strip('/') or 'x'}")
        assert (inside.container_id, inside.container_path) == (found.container_id, found.container_path)
        assert (inside.pod_uid, inside.pod_path, inside.enclosing) == (found.pod_uid, found.pod_path, found.enclosing)
        assert inside.nested
