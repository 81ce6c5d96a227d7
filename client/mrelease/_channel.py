"""What both clients do with a channel: its options, and when a call is made again."""

from __future__ import annotations

import time
from typing import Final

import grpc

from mrelease._calls import Call, ResponseT, ValueT
from mrelease._failure import Failure

#: Channel options, https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: Final = (
    # Repeating a kill is the caller's decision.
    ("grpc.enable_retries", 0),
    # The agent is on this machine: a proxy of the environment is not on the way.
    ("grpc.enable_http_proxy", 0),
    # Channels with the same options share their connection and its back-off: a new client would wait for the failures of an old one.
    ("grpc.use_local_subchannel_pool", 1),
    # The agent is on this machine: it is found again 0.1 s after it has come back, the shortest that gRPC allows, and hurts no network.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    # A page of 1,000 processes, each with a cgroup path of up to 4,096 bytes.
    ("grpc.max_receive_message_length", 8 << 20),
)

# Pauses before a read is made again, in seconds.
_PAUSES = (0.05, 0.1, 0.2)


class Attempts:
    """One deadline over all attempts at a call, and whether there is another one.

    Only calls that read are made again, and only after UNAVAILABLE. A kill never is: the connection may have broken after the agent had
    the request, and by the second time the pid may be someone else's. Nor is ``Release``, whose second answer would be another one.
    Where nothing was signalled the exception says so (``nothing_signalled``), and repeating the call is the caller's decision.
    """

    def __init__(self, call: Call[ResponseT, ValueT]) -> None:
        self._end = time.monotonic() + call.deadline
        self._pauses = iter(_PAUSES if call.reads else ())

    def seconds_left(self) -> float:
        """What the deadline leaves."""
        return self._end - time.monotonic()

    def pause_after(self, failure: Failure) -> float | None:
        """How long to pause before the next attempt; None: there is none."""
        if failure.code is not grpc.StatusCode.UNAVAILABLE:
            return None
        pause = next(self._pauses, None)
        return None if pause is None or pause >= self.seconds_left() else pause
