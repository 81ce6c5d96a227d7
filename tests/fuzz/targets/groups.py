"""Containers, pods and cgroups as callers name them, on this very node: found as they were named, or an error of the contract."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from fuzz.kit import assert_readable
from mrelease.v1 import target_pb2
from mrelease_agent.rpc import group_target
from mrelease_agent.rpc.errors import RpcError
from mrelease_agent.targets.group import Group


def one_input(data: bytes) -> None:
    """A serialized Target."""
    try:
        target = target_pb2.Target.FromString(data)
    except DecodeError:
        return
    if target.WhichOneof("kind") in (None, "process"):
        return
    opened: list[Group] = []
    try:
        with group_target.told("target"):
            opened = group_target.find(target)
        for group in opened:
            check(target, group)
    except RpcError as error:
        assert_readable(error.message, about="target.")
    finally:
        for group in opened:
            group.close()


def check(target: target_pb2.Target, group: Group) -> None:
    """It is what was named, not what holds it or lies beside it."""
    kind = target.WhichOneof("kind")
    if kind == "container":
        assert group.membership.container_id.startswith(target.container.id)
    elif kind == "pod":
        assert group.membership.pod_uid == target.pod.uid
    else:
        assert group.path == target.cgroup.path
        assert not {"", ".", ".."} & set(group.path.split("/")[1:])
