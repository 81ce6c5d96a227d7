"""What is named by its node and its own identity there: ``pid://``, ``container://``, ``cgroup://`` and ``target://``.

Nobody is asked what it is: only ``mrelease.addresses``, where the agent of the node is.
"""

from __future__ import annotations

import re
from typing import Final

from mrelease._models import Cgroup, Container, Custom, Process, Target
from mrelease.errors import InvalidReference
from mrelease.resolvers._placement import Placement
from mrelease.resolvers._reference import Reference

_PID: Final = re.compile(r"([1-9][0-9]{0,17})(?::([1-9][0-9]{0,17}))?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_BOOT: Final = "boot"


class _Direct:
    """One target on one node. ``boot=ID``: do nothing in another boot of it."""

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``."""
        parsed = Reference.parse(ref)
        target, uid = self._target(parsed)
        # An empty one, as of a variable that is not set, would not be compared.
        for key, value in parsed.query.items():
            if not value:
                raise InvalidReference(f"{ref!r}: {key} is empty", "as of a variable that is not set: remove it, or say what it is")
        boot = parsed.query.get(_BOOT, "")
        return [Placement.on(parsed.parts[0], target, ref, deadline=deadline, boot_id=boot, uid=uid)]

    def close(self) -> None:
        """Holds nothing."""

    def _target(self, ref: Reference) -> tuple[Target, int | None]:
        raise NotImplementedError


class Pid(_Direct):
    """``pid://NODE/PID[:INODE]``, with ``?start=TICKS``, ``uid=UID``, ``container=ID`` and ``boot=ID``.

    A pid alone is whatever runs under that number now. ``INODE`` of its pidfd or its start time in ticks make it one process for ever,
    ``uid`` one of that user. ``container``: the number is the one that processes of this container see.
    """

    def _target(self, ref: Reference) -> tuple[Target, int | None]:
        ref.only("start", "uid", "container", _BOOT)
        found = _PID.fullmatch(ref.parts[1]) if len(ref.parts) == 2 else None
        if found is None:
            raise InvalidReference(f"{ref.text!r} does not say which process", "write pid://NODE/PID or pid://NODE/PID:INODE")
        inode, start, uid = int(found[2]) if found[2] else None, _number(ref, "start"), _number(ref, "uid")
        container = ref.query.get("container", "")
        if uid is not None and (inode is not None or container):
            raise InvalidReference(f"{ref.text!r} has uid beside what says more, or cannot be combined with it", "remove uid")
        return Process(int(found[1]), inode, start, container), uid


class ContainerById(_Direct):
    """``container://NODE/ID``: 12 digits of its id or more."""

    def _target(self, ref: Reference) -> tuple[Target, int | None]:
        ref.only(_BOOT)
        if len(ref.parts) != 2:
            raise InvalidReference(f"{ref.text!r} does not say which container", "write container://NODE/ID")
        return Container(ref.parts[1]), None


class CgroupByPath(_Direct):
    """``cgroup://NODE/PATH``: the path is the one in /proc/PID/cgroup for the memory controller, without its first slash."""

    def _target(self, ref: Reference) -> tuple[Target, int | None]:
        ref.only(_BOOT)
        if len(ref.parts) < 2:
            raise InvalidReference(f"{ref.text!r} does not say which cgroup", "write cgroup://NODE/PATH")
        return Cgroup("/" + "/".join(ref.parts[1:])), None


class CustomTarget(_Direct):
    """``target://NODE/KIND?key=value``: what a plugin of that node's agent finds. See ``mrelease plugins --agent`` for the kinds."""

    def _target(self, ref: Reference) -> tuple[Target, int | None]:
        if len(ref.parts) != 2:
            raise InvalidReference(f"{ref.text!r} does not say of which kind it is", "write target://NODE/KIND?key=value")
        attributes = {key: value for key, value in ref.query.items() if key != _BOOT}
        return Custom(ref.parts[1], attributes), None


def _number(ref: Reference, key: str) -> int | None:
    text = ref.query.get(key)
    if text is not None and not _NUMBER.fullmatch(text):
        raise InvalidReference(f"{ref.text!r}: {key} is not a number", "give digits alone")
    return None if text is None else int(text)
