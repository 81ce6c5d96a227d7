"""``nomad://ALLOC/TASK``: a task of Nomad, by the cgroup that its client made for it (drivers exec, raw_exec, java and qemu).

Tasks of the docker and podman drivers are containers: name those by their id, container://NODE/ID. ``NOMAD_ADDR`` and ``NOMAD_TOKEN`` are
those of the command `nomad`. ``?cgroup=v1`` where the node has cgroup v1; ``?parent=/PATH`` where its configuration has ``cgroup_parent``.
"""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from typing import Any, Final

from mrelease import Cgroup
from mrelease.errors import InvalidReference, NotPlaced, OrchestratorDenied, OrchestratorUnavailable, ReferenceNotFound
from mrelease.resolvers import Placement, Reference

_ALLOC: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TASK: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}", re.ASCII)
_PARENT: Final = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+", re.ASCII)
_MOST: Final = 16 << 20


class Nomad:
    """The resolver. An allocation's id is never used again, so its cgroup's path is an identity."""

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """One placement. Raises NotPlaced for a task that has not begun."""
        end = time.monotonic() + deadline
        parsed = Reference.parse(ref)
        parsed.only("cgroup", "parent")
        version, parent = parsed.query.get("cgroup", "v2"), parsed.query.get("parent")
        if (
            parsed.scheme != "nomad"
            or len(parsed.parts) != 2
            or not (_ALLOC.fullmatch(parsed.parts[0]) and _TASK.fullmatch(parsed.parts[1]))
        ):
            raise InvalidReference(f"{ref!r} is no task of Nomad", "write nomad://ALLOC/TASK with the whole id of the allocation")
        if version not in ("v1", "v2") or (parent is not None and not _PARENT.fullmatch(parent)):
            raise InvalidReference(f"{ref!r}: cgroup is v1 or v2, and parent an absolute path", "correct it, or leave it out")
        alloc, task = parsed.parts
        found = _get(f"/v1/allocation/{alloc}", deadline)
        try:
            state, node = found["TaskStates"][task], str(found["NodeName"])
            cores = found["AllocatedResources"]["Tasks"][task]["Cpu"].get("ReservedCores")
        except (KeyError, TypeError, AttributeError):
            raise ReferenceNotFound(f"allocation {alloc} has no task {task}", "`nomad alloc status` names them") from None
        if state.get("State") == "pending":
            raise NotPlaced(f"task {task} of {alloc} has not begun", "nothing of it runs, so there is nothing to release")
        if version == "v1":
            path = f"{parent or '/nomad'}/{alloc}.{task}"
        else:
            path = f"{parent or '/nomad.slice'}/{'reserve' if cores else 'share'}.slice/{alloc}.{task}.scope"
        return [Placement.on(node, Cgroup(path), f"{task} of {alloc}", deadline=max(0.0, end - time.monotonic()))]

    def close(self) -> None:
        """Nothing is open."""


def _get(path: str, deadline: float) -> Any:
    address, token = os.environ.get("NOMAD_ADDR", "http://127.0.0.1:4646"), os.environ.get("NOMAD_TOKEN", "")
    if not address.startswith(("http://", "https://")):
        raise OrchestratorUnavailable("NOMAD_ADDR is no http:// or https:// address", "set it as for the command nomad")
    request = urllib.request.Request(address.rstrip("/") + path, headers={"X-Nomad-Token": token} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=max(0.01, deadline)) as response:  # noqa: S310
            return json.loads(response.read(_MOST))
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                raise OrchestratorDenied("Nomad does not let this token look", "NOMAD_TOKEN needs read-job in the namespace") from None
            if error.code == 404:
                raise ReferenceNotFound("Nomad knows no such allocation", "it forgets them after job_gc_threshold") from None
            raise OrchestratorUnavailable(f"Nomad answers with HTTP status {error.code}", "is NOMAD_ADDR its address?") from None
    except (OSError, ValueError):
        raise OrchestratorUnavailable("Nomad does not answer", "is NOMAD_ADDR its address?") from None
