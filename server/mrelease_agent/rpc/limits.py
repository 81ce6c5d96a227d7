"""What callers together may take of the agent: connections, streams, bytes and patience, as gRPC's channel arguments.

https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
"""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import Final

from mrelease_agent.rpc.intake import MAX_REQUEST

#: Seconds for a new connection to say what it is: its TLS handshake, and the first frame of HTTP/2.
_HANDSHAKE: Final = 10
#: Seconds after which a connection without a call is closed; gRPC's clients make another one when they need it.
_IDLE: Final = 300
#: Seconds after which a connection on which nothing comes is asked whether it is still there, and until it is closed without an answer.
_ASK_AFTER: Final = 60
_ANSWER: Final = 30
#: Bytes of metadata of a call; the contract has none.
_METADATA: Final = 8 * 1024
#: Bytes that a caller may send before its request is read. A usual request is smaller, and needs no leave to send more.
_WINDOW: Final = 4 * 1024
#: Descriptors of one connection: in gRPC, and in the relay two more.
_DIRECT: Final = 1
_RELAYED: Final = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """``calls``: at once, of all callers. ``connections``: at once on each address; who comes then is hung up on."""

    calls: int
    connections: int

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """Channel arguments of the server."""
        return (
            ("grpc.max_receive_message_length", MAX_REQUEST),
            ("grpc.max_metadata_size", _METADATA),
            ("grpc.absolute_max_metadata_size", _METADATA),
            # As many as one caller may have: a client that has more at once than the server takes loses them, when its connection is new.
            ("grpc.max_concurrent_streams", self.calls // 2),
            ("grpc.http2.lookahead_bytes", _WINDOW),
            ("grpc.http2.bdp_probe", 0),  # else the window grows to megabytes
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE * 1000),
            ("grpc.max_connection_idle_ms", _IDLE * 1000),
            ("grpc.keepalive_time_ms", _ASK_AFTER * 1000),
            ("grpc.keepalive_timeout_ms", _ANSWER * 1000),
        )


def connections(wanted: int, kept: int, *, relayed: bool) -> int:
    """How many of the connections that are wanted the process can have and keep ``kept`` descriptors for its work, or half of all.

    RLIMIT_NOFILE, getrlimit(2).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    free = limit - min(kept, limit // 2)
    return max(1, min(wanted, free // (_RELAYED if relayed else _DIRECT)))
