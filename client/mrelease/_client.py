"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from datetime import timedelta
from types import TracebackType

import grpc

from mrelease import _calls, _messages, _trace
from mrelease._address import parse
from mrelease._calls import Call, ResponseT, StreamCall, ValueT
from mrelease._channel import Attempts, Channels
from mrelease._enums import Boost, Wait
from mrelease._failure import Failure, to_error
from mrelease._memory_models import MemorySample, PressureTrigger
from mrelease._models import Cgroup, Container, Group, Node, NodeRef, ProcessList, ReleaseResult, Target
from mrelease._release_models import PressureGoal, ReclaimEvent, ReleaseProgress
from mrelease._streaming import iterate
from mrelease._tls import TLS


class Client:
    """A connection to an agent, made when the first call needs it. Threads may share it; close it, or use it in a ``with`` block.

    ``address``: ``unix:///path/to/agent.sock`` or ``host:port``; None: ``$MRELEASE_AGENT``, else the socket where this user's agent
    listens by default. ``tls``: certificates for ``host:port``, which without them must be of this machine; with ``$MRELEASE_AGENT`` None
    takes them from ``$MRELEASE_CLIENT_CA``, ``_CERT`` and ``_KEY``. ``timeout``: seconds or a ``timedelta``, for calls that do not name
    their own.

    Every call has a deadline. ``get_node`` and ``list_processes`` are made again a few times while the agent is unreachable, within
    their deadline; calls that kill or release never are. Calls raise ``errors.AgentError``; the constructor ``errors.InvalidAddress`` and
    ``errors.InvalidTLS``.
    """

    def __init__(self, address: str | None = None, *, tls: TLS | None = None, timeout: float | timedelta = 10.0) -> None:
        self._address = parse(address, tls=tls)
        self._timeout = _messages.seconds("timeout", timeout)
        self._channels = Channels[grpc.Channel](self._address, grpc.insecure_channel, grpc.secure_channel, lambda old: old.close())
        self._closed = False

    @property
    def address(self) -> str:
        """The address in use."""
        return self._address.text

    def kill_and_release(
        self,
        target: Target,
        *,
        node: NodeRef | None = None,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reap_delay: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        request_id: str = "",
        grace_period: float | timedelta = 0,
        signal: str = "",
        boost: Boost = Boost.UNSPECIFIED,
    ) -> ReleaseResult:
        """Send SIGKILL to the target and give its memory back now; of a container, pod or cgroup to every process until none is left.

        ``node``: do nothing (``NodeMismatch``) unless this node in this boot answers. ``wait``: until the memory is proven back, or also
        until the exit. ``timeout``: how long, in seconds; then the verdict is HELD. ``reap_delay``: how long the victim may exit by
        itself before its memory is taken, 0 to 1 s; None: the agent's setting. ``reason``: for the agent's log.
        ``validate_only``: make every check and signal nothing. ``request_id``: a name for the operation, best a UUID; the same call with
        it joins the operation while it runs and repeats its result after, and ``watch_release`` follows it. ``grace_period``: how long,
        in seconds, the target may end by itself after ``signal`` ("SIGTERM" where it is empty), before SIGKILL; ``timeout`` begins after
        it. ``boost``: how the victim may be given CPU time; NONE turns it off.

        Memory that is not back is a result, not an error: see ``ReleaseResult.raise_unless_released``. Raises ``errors.AgentError``, of
        which ``OutcomeUnknown`` alone leaves open whether something was killed.
        """
        return self._unary(
            _calls.kill_and_release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                reason=reason,
                validate_only=validate_only,
                request_id=request_id,
                grace_period=grace_period,
                signal=signal,
                boost=boost,
            )
        )

    def release(
        self,
        target: Target,
        *,
        node: NodeRef | None = None,
        wait: Wait = Wait.RELEASED,
        timeout: float | timedelta | None = None,
        reason: str = "",
        validate_only: bool = False,
        request_id: str = "",
        boost: Boost = Boost.UNSPECIFIED,
    ) -> ReleaseResult:
        """Give back the memory of a target that someone else has already killed. Signals nothing: ``NotDying`` for one that is alive.

        Of a container, pod or cgroup the living are left alone with the outcome NOT_DYING, and ``NotDying`` means that all live.
        Arguments, result and errors are those of ``kill_and_release``.
        """
        return self._unary(
            _calls.release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reason=reason,
                validate_only=validate_only,
                request_id=request_id,
                boost=boost,
            )
        )

    def watch_release(
        self, request_id: str, *, interval: float | timedelta | None = None, timeout: float | timedelta | None = None
    ) -> Generator[ReleaseProgress | ReleaseResult, None, None]:
        """Follow an operation by the ``request_id`` of its call: how much memory is still held, then its result as the last value.

        ``interval``: seconds between two values, 0.01 to 60; None: 0.2 s. ``timeout``: seconds after which it ends with
        ``DeadlineExceeded``; None: never. Attaches to a finished operation, too, as long as the agent keeps its result. Raises
        ``errors.AgentError``: ``OperationNotFound``, and that with which the operation itself fails.
        """
        return self._stream(_calls.watch_release(request_id, interval, timeout))

    def reclaim(
        self,
        candidates: Iterable[Target],
        *,
        released_bytes: int | None = None,
        available_bytes: int | None = None,
        pressure_below: PressureGoal | None = None,
        node: NodeRef | None = None,
        timeout: float | timedelta | None = None,
        reap_delay: float | timedelta | None = None,
        grace_period: float | timedelta = 0,
        signal: str = "",
        boost: Boost = Boost.UNSPECIFIED,
        reason: str = "",
        validate_only: bool = False,
        deadline: float | timedelta | None = None,
    ) -> Generator[ReclaimEvent, None, None]:
        """Kill ``candidates`` in this order until the goal is met: the next only when what the last held is back, or diagnosed as held.

        The goal is one of ``released_bytes`` proven back by this call, ``available_bytes`` of the node, and ``pressure_below``.
        ``timeout``: how long to wait for the memory of each; ``deadline``: seconds for the whole, None: none. ``validate_only``: signal
        nothing, and say who would die. The others are those of ``kill_and_release``. The last value is a ``ReclaimSummary``.

        The call begins when the first value is asked for. When the iterator is closed, no further candidate is killed. Raises
        ``errors.AgentError``, and ``ValueError`` unless exactly one goal is given.
        """
        return self._stream(
            _calls.reclaim(
                candidates,
                released_bytes=released_bytes,
                available_bytes=available_bytes,
                pressure_below=pressure_below,
                node=node,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                grace_period=grace_period,
                signal=signal,
                boost=boost,
                reason=reason,
                validate_only=validate_only,
                deadline=deadline,
            )
        )

    def get_node(self) -> Node:
        """Describe the node, and what the agent can do there. Raises ``errors.AgentError``."""
        return self._unary(_calls.get_node(self._timeout))

    def list_processes(self, *, limit: int | None = 50, uid: int | None = None, within: Group | None = None) -> ProcessList:
        """List user processes, the one whose death gives most memory back first.

        At most ``limit`` (None: all), only those of the effective user id ``uid`` (None: of every user) and of the container, pod or
        cgroup ``within`` (None: of the whole node). Raises ``errors.AgentError``.
        """
        pages = _calls.list_processes(limit, uid, within, self._timeout)
        try:
            call = next(pages)
            while True:
                call = pages.send(self._unary(call))
        except StopIteration as end:
            processes: ProcessList = end.value
            return processes

    def watch_memory(
        self,
        *,
        interval: float | timedelta | None = None,
        within: Container | Cgroup | None = None,
        trigger: PressureTrigger | None = None,
        timeout: float | timedelta | None = None,
    ) -> Generator[MemorySample, None, None]:
        """Watch memory and memory pressure of the node, and of a container or cgroup ``within`` where one is named, until it is closed.

        ``interval``: seconds between two samples, 0.1 to 3600; None: 1 s, or with a ``trigger`` none but when it fires. ``trigger``: a
        sample at once when memory pressure reaches this. ``timeout``: seconds after which it ends with ``DeadlineExceeded``; None: never.

        The call begins when the first sample is asked for. Raises ``errors.AgentError``: ``TargetNotFound`` when the cgroup is removed,
        ``ShuttingDown`` when the agent ends.
        """
        return self._stream(_calls.watch_memory(interval, within, trigger, timeout))

    def close(self) -> None:
        """Close the connection. Calls under way end with ``Cancelled``; their operations run to their end at the agent."""
        self._closed = True
        for channel in self._channels.all():
            channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _unary(self, call: Call[ResponseT, ValueT]) -> ValueT:
        if self._closed:
            raise RuntimeError("this client is closed")
        attempts = Attempts(call)
        while isinstance(answer := self._attempt(call, attempts.seconds_left()), Failure):
            pause = attempts.pause_after(answer)
            if pause is None:
                raise to_error(answer, self._address, signals=call.signals, request=call.request)
            time.sleep(pause)
        return call.decode(answer)

    def _stream(self, call: StreamCall[ResponseT, ValueT]) -> Generator[ValueT, None, None]:
        if self._closed:
            raise RuntimeError("this client is closed")
        return iterate(call, self._channels, self._address)

    def _attempt(self, call: Call[ResponseT, ValueT], seconds: float) -> ResponseT | Failure:
        with self._channels.use() as channel:
            method = channel.unary_unary(call.path, type(call.request).SerializeToString, call.response.FromString)
            try:
                return method(call.request, timeout=seconds, metadata=_trace.metadata())
            except grpc.RpcError as error:
                return Failure(error.code(), error.details() or "", [(m.key, m.value) for m in error.trailing_metadata() or ()])
