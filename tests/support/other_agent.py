"""The agent as another version of itself: under another version number, and without fields of the contract that it did not have yet.

Goes in front of an agent's command as the ``prefix`` of ``running_agent``, as seam_agent does:

    other_agent.py VERSION FIELDS    FIELDS: full names with commas between them, such as mrelease.v1.Target.custom

The rest of the agent is that of this tree: what an older one kept on disk is in tests/data.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool


def version(number: str, *without: str) -> list[str]:
    """The ``prefix`` for ``running_agent``."""
    return [sys.executable, __file__, number, ",".join(without)]


def older(serialized: bytes, without: Iterable[str]) -> bytes:
    """A file of the contract without some fields of its messages."""
    file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
    for name in without:
        message, _, field = name.rpartition(".")
        for found in file.message_type:
            if f"{file.package}.{found.name}" == message:
                kept = [each for each in found.field if each.name != field]
                del found.field[:]
                found.field.extend(kept)
    return file.SerializeToString()


class _OlderPool:
    """The default pool, for generated code that declares its file in it."""

    def __init__(self, pool: Any, without: list[str]) -> None:
        self._pool = pool
        self._without = without

    def AddSerializedFile(self, serialized: bytes) -> Any:  # noqa: N802 -- generated code calls it so
        return self._pool.AddSerializedFile(older(serialized, self._without))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


def main() -> None:
    """Be that agent."""
    number, without, _python, _m, _module, *flags = sys.argv[1:]
    pool = _OlderPool(descriptor_pool.Default(), [name for name in without.split(",") if name])
    setattr(descriptor_pool, "Default", lambda: pool)  # noqa: B010 -- type checkers hold it to be final
    from mrelease import _version

    setattr(_version, "VERSION", number)  # noqa: B010
    sys.argv = ["mrelease-agent", *flags]
    runpy.run_module("mrelease_agent", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
