"""The client that blocks."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

import grpc

from mrelease import _codec
from mrelease._address import parse
from mrelease._channel import OPTIONS, Attempts
from mrelease._codec import Call, ResponseT, ValueT
from mrelease._enums import Wait
from mrelease._failure import Failure, to_error
from mrelease._models import Group, Node, NodeRef, ProcessList, ReleaseResult, Target


class Client:
    """A connection to an agent, made when the first call needs it. Threads may share it; close it, or use it in a ``with`` block.

    ``address``: ``unix:///path/to/agent.sock`` or ``host:port`` (plaintext, so loopback only); None: ``$MRELEASE_AGENT``, else the socket
    where this user's agent listens by default. ``timeout``: seconds or a ``timedelta``, for calls that do not name their own.

    Every call has a deadline. ``get_node`` and ``list_processes`` are made again a few times while the agent is unreachable, within
    their deadline; calls that kill or release never are. Calls raise ``errors.AgentError``; the constructor ``errors.InvalidAddress``.
    """

    def __init__(self, address: str | None = None, *, timeout: float | timedelta = 10.0) -> None:
        self._address = parse(address)
        self._timeout = _codec.seconds("timeout", timeout)
        self._channel = grpc.insecure_channel(self._address.target, OPTIONS)
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
    ) -> ReleaseResult:
        """Send SIGKILL to the target and give its memory back now; of a container, pod or cgroup to every process until none is left.

        ``node``: do nothing (``NodeMismatch``) unless this node in this boot answers. ``wait``: until the memory is proven back, or also
        until the exit. ``timeout``: how long, in seconds; then the verdict is HELD. ``reap_delay``: how long the victim may exit by
        itself before its memory is taken, 0 to 1 s; None: the agent's setting. ``reason``: for the agent's log.
        ``validate_only``: make every check and signal nothing.

        Memory that is not back is a result, not an error: see ``ReleaseResult.raise_unless_released``. Raises ``errors.AgentError``, of
        which ``OutcomeUnknown`` alone leaves open whether something was killed.
        """
        return self._unary(
            _codec.kill_and_release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reap_delay=reap_delay,
                reason=reason,
                validate_only=validate_only,
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
    ) -> ReleaseResult:
        """Give back the memory of a target that someone else has already killed. Signals nothing: ``NotDying`` for one that is alive.

        Of a container, pod or cgroup the living are left alone with the outcome NOT_DYING, and ``NotDying`` means that all live.
        Arguments, result and errors are those of ``kill_and_release``.
        """
        return self._unary(
            _codec.release(
                target,
                node=node,
                wait=wait,
                timeout=self._timeout if timeout is None else timeout,
                reason=reason,
                validate_only=validate_only,
            )
        )

    def get_node(self) -> Node:
        """Describe the node, and what the agent can do there. Raises ``errors.AgentError``."""
        return self._unary(_codec.get_node(self._timeout))

    def list_processes(self, *, limit: int | None = 50, uid: int | None = None, within: Group | None = None) -> ProcessList:
        """List user processes, the one whose death gives most memory back first.

        At most ``limit`` (None: all), only those of the effective user id ``uid`` (None: of every user) and of the container, pod or
        cgroup ``within`` (None: of the whole node). Raises ``errors.AgentError``.
        """
        pages = _codec.list_processes(limit, uid, within, self._timeout)
        try:
            call = next(pages)
            while True:
                call = pages.send(self._unary(call))
        except StopIteration as end:
            processes: ProcessList = end.value
            return processes

    def close(self) -> None:
        """Close the connection. Calls under way end with ``Cancelled``; their operations run to their end at the agent."""
        self._closed = True
        self._channel.close()

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
                raise to_error(answer, self._address, signals=call.signals)
            time.sleep(pause)
        return call.decode(answer)

    def _attempt(self, call: Call[ResponseT, ValueT], seconds: float) -> ResponseT | Failure:
        method = self._channel.unary_unary(call.path, type(call.request).SerializeToString, call.response.FromString)
        try:
            return method(call.request, timeout=seconds)
        except grpc.RpcError as error:
            return Failure(error.code(), error.details() or "", [(m.key, m.value) for m in error.trailing_metadata() or ()])
