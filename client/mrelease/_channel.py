"""What both clients do with a channel: its options, and when a call is made again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Generic, TypeVar, cast

import grpc

from mrelease._address import Address
from mrelease._calls import Call, ResponseT, ValueT
from mrelease._failure import Failure
from mrelease._tls import Credentials

ChannelT = TypeVar("ChannelT")

#: Channel options, https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    # Repeating a kill is the caller's decision.
    ("grpc.enable_retries", 0),
    # The agent is on this machine, or on a node of the same cluster: a proxy of the environment is not on the way.
    ("grpc.enable_http_proxy", 0),
    # Channels with the same options share their connection and its back-off: a new client would wait for the failures of an old one.
    ("grpc.use_local_subchannel_pool", 1),
    # The agent is on this machine: it is found again 0.1 s after it has come back, the shortest that gRPC allows, and hurts no network.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
    # A page of 1,000 processes, each with a cgroup path of up to 4,096 bytes.
    ("grpc.max_receive_message_length", 8 << 20),
)

#: The same for an agent on another machine, which comes and goes with its network.
REMOTE_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *(option for option in OPTIONS if option[0] != "grpc.max_reconnect_backoff_ms"),
    # Every attempt is a handshake that the agent pays for.
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long a connection may take: a node that is gone is found out before the deadline of a call, while nothing was sent.
    ("grpc.min_reconnect_backoff_ms", 4000),
    # A node that goes away says nothing. The agent allows a ping each 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

# Pauses before a read is made again, in seconds.
_PAUSES = (0.05, 0.1, 0.2)


class Channels(Generic[ChannelT]):
    """The channel for calls that are made now, and those of calls that were made before the certificates changed.

    ``make`` and ``make_secure`` are those of gRPC; ``close`` is called with a channel that its last call has left. Threads may share it.
    """

    def __init__(self, address: Address, make: Any, make_secure: Any, close: Callable[[ChannelT], object]) -> None:
        self._address = address
        self._make, self._make_secure, self._close = make, make_secure, close
        self._credentials = None if address.tls is None else Credentials.of(address.tls)
        self._shown: grpc.ChannelCredentials | None = None
        self._lock = threading.Lock()
        self._now: ChannelT | None = None
        self._users: dict[ChannelT, int] = {}

    @contextmanager
    def use(self) -> Generator[ChannelT, None, None]:
        """The channel for one call, for as long as the call lasts."""
        with self._lock:
            old = self._now
            if old is None or (self._credentials is not None and self._credentials.renewed() is not self._shown):
                self._now = self._open()
                self._users[self._now] = 0
            if old is not None and old is not self._now:
                self._drop(old)
            channel = cast("ChannelT", self._now)
            self._users[channel] += 1
        try:
            yield channel
        finally:
            with self._lock:
                self._users[channel] -= 1
                self._drop(channel)

    def all(self) -> list[ChannelT]:
        """Every channel that is open."""
        with self._lock:
            return list(self._users)

    def _drop(self, channel: ChannelT) -> None:
        if channel is not self._now and not self._users[channel]:
            del self._users[channel]
            self._close(channel)

    def _open(self) -> ChannelT:
        if self._address.tls is None or self._credentials is None:
            return cast("ChannelT", self._make(self._address.target, OPTIONS))
        name = self._address.tls.server_name
        options = (*REMOTE_OPTIONS, ("grpc.ssl_target_name_override", name)) if name else REMOTE_OPTIONS
        self._shown = self._credentials.current
        return cast("ChannelT", self._make_secure(self._address.target, self._shown, options))


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
