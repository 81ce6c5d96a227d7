"""The node that a request is meant for."""

from __future__ import annotations

from mrelease.v1 import error_reason_pb2, result_pb2, target_pb2
from mrelease_agent.rpc.errors import RpcError


def check_node(node: result_pb2.NodeIdentity, precondition: target_pb2.NodePrecondition) -> None:
    """Raise RpcError (NODE_MISMATCH) where ``precondition`` names another node than ``node``, or another boot of it."""
    for field in ("name", "boot_id"):
        expected, actual = getattr(precondition, field), getattr(node, field)
        if expected and expected != actual:
            raise RpcError(
                error_reason_pb2.ERROR_REASON_NODE_MISMATCH,
                f"node.{field} is {expected}, this is {actual}; nothing was signalled",
                "the request reached another node, or the node was booted since: look the target up again",
                field=f"node.{field}",
                expected=expected,
                actual=actual,
            )
