"""Around every call: requests are decoded and errors encoded here, and each call is counted and logged."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, nullcontext
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from mrelease._version import VERSION
from mrelease.v1 import error_reason_pb2
from mrelease_agent.guard.caller import Caller, current
from mrelease_agent.guard.gate import Ask, Gate
from mrelease_agent.rpc import traced, validate
from mrelease_agent.rpc.callers import caller_of
from mrelease_agent.rpc.errors import OLDER, RpcError, invalid
from mrelease_agent.rpc.intake import Intake
from mrelease_agent.rpc.refusals import refusals
from mrelease_agent.rpc.shares import Share
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics
from mrelease_agent.telemetry.spans import Traces

_log = logging.getLogger("mrelease")
#: What these did is logged by the operation, which may outlive the call; health checks are asked for all the time.
_QUIET_WHEN_OK = ("/mrelease.v1.ReleaseService/", "/grpc.health.v1.Health/")
#: Calls of ListProcesses, and of Health.Watch, at once.
_LISTS = 128
_WATCHES = 256

# grpc.aio's own generics differ between its versions; nothing here depends on them.
_Handler = Any
_Context = Any
_Decode = Callable[[bytes], Message]
#: A behaviour with the request still to be decoded: returns the answer, or writes a stream of them and returns None.
_Answer = Callable[[bytes, _Context], Awaitable[Any]]
# For gRPC every request is a stream, of which one message is read: else it would read that before it asks us anything. On the wire, and to
# callers, there is no difference.
_unary_handler: Any = grpc.stream_unary_rpc_method_handler
_stream_handler: Any = grpc.stream_stream_rpc_method_handler


class Interceptor(grpc.aio.ServerInterceptor):
    """Turns every error into a status with details, and lets no text of an exception out.

    Requests are decoded here and not by gRPC, which would answer a broken one with INTERNAL. A call with a stream of requests goes
    through as it is: the contract has none, reflection has.
    """

    def __init__(
        self,
        metrics: Metrics,
        gate: Gate | None = None,
        caller_of: Callable[[_Context], Caller] = caller_of,
        calls: int = 1024,
        traces: Traces | None = None,
    ) -> None:
        self._metrics = metrics
        self._intake = Intake()
        # Health.Check holds nothing: it is always answered. Answers of ListProcesses are large, and may not be read.
        self._shares = {"*": Share(calls, "calls"), "ListProcesses": Share(_LISTS, "lists"), "Watch": Share(_WATCHES, "watches")}
        self._caller_of = caller_of
        self._gate = gate or Gate()
        self._traces = traces or Traces()
        #: By method: those that there are, which are few.
        self._handlers: dict[str, _Handler] = {}

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]], handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """See grpc.aio.ServerInterceptor."""
        method = str(handler_call_details.method)
        known = self._handlers.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None:
            return _unary_handler(self._unknown(method))
        self._handlers[method] = wrapped = self._wrapped(method, handler)
        return wrapped

    def _wrapped(self, method: str, handler: _Handler) -> _Handler:
        if handler.request_streaming:
            return handler
        if handler.response_streaming:
            serve = self._guarded(method, _stream(handler.unary_stream, handler.request_deserializer))
            return _stream_handler(serve, response_serializer=handler.response_serializer)
        serve = self._guarded(method, _unary(handler.unary_unary, handler.request_deserializer))
        return _unary_handler(serve, response_serializer=handler.response_serializer)

    def _unknown(self, method: str) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        async def refuse(_requests: object, context: _Context) -> bytes:
            error = RpcError(
                error_reason_pb2.ERROR_REASON_UNKNOWN_METHOD,
                f"the agent, version {VERSION}, has no such method",
                OLDER,
                method=method[:256],
                agent_version=VERSION,
            )
            self._metrics.request("unknown", error.code.name)
            await context.abort(error.code, error.message, error.trailers())
            return b""

        return refuse

    def _identify(self, context: _Context, method: str) -> str:
        """Establish the caller before a byte of its request is read; its name. Raises RpcError (PERMISSION_DENIED, UNAUTHENTICATED)."""
        caller = self._caller_of(context)
        current.set(caller)
        ask = Ask(caller, method)
        with refusals(ask):
            self._gate.check(ask)
        return caller.name

    def _name(self, context: _Context) -> str:
        """The caller's name, where it need not have one."""
        try:
            return self._caller_of(context).name
        except RpcError:
            return "anyone"

    def _guarded(self, method: str, answer: _Answer) -> _Answer:
        name = method.rpartition("/")[2]
        quiet = method.startswith(_QUIET_WHEN_OK)
        ours = method.startswith("/mrelease.")
        share = self._shares.get(name) or (self._shares["*"] if ours else None)

        async def serve(_requests: object, context: _Context) -> Any:
            start = time.monotonic()
            code, reason, caller = grpc.StatusCode.OK, None, ""
            trace = traced.begin(self._traces, method, context.invocation_metadata()) if ours else None
            try:
                try:
                    # Health is for everybody who could connect.
                    caller = self._identify(context, name) if ours else self._name(context)
                    with nullcontext() if share is None else share.take(caller):
                        return await answer(await self._intake.read(context), context)
                except RpcError as error:
                    code, reason = error.code, error.details.reason
                    error.__traceback__ = None  # its frames hold the request until the answer is on its way
                    await context.abort(error.code, error.message, error.trailers())
                except (asyncio.CancelledError, grpc.aio.AbortError):
                    code = context.code() or grpc.StatusCode.CANCELLED
                    raise
                except grpc.aio.InternalError:
                    # The caller went away while a message waited for it to read: gRPC says that the write failed, not that it ended.
                    code = grpc.StatusCode.CANCELLED
                    raise asyncio.CancelledError from None
                except Exception:
                    code, reason = grpc.StatusCode.INTERNAL, "INTERNAL"
                    incident = _incident(name)
                    await context.abort(incident.code, incident.message, incident.trailers())
                raise AssertionError("abort() raises")
            finally:
                self._metrics.request(name, _code_name(code))
                level = logging.DEBUG if quiet and code is grpc.StatusCode.OK else logging.INFO
                duration = round((time.monotonic() - start) * 1000, 3)
                event(_log, level, "request", method=name, code=_code_name(code), reason=reason, duration_ms=duration)
                traced.answered(self._traces, trace, method, start, code, reason, caller)

        return serve


def _unary(behaviour: Callable[[Message, _Context], Awaitable[Message]], decode: _Decode) -> _Answer:
    return lambda raw, context: behaviour(decode_request(raw, decode), context)


def _stream(behaviour: Callable[[Message, _Context], Any], decode: _Decode) -> _Answer:
    """A behaviour that returns an asynchronous generator of messages, or writes them itself.

    They are written from here, one when the last one is on its way: a caller that reads slowly slows the behaviour down, and one that
    goes away ends it at once, wherever it is, instead of when Python collects it.
    """

    async def write(raw: bytes, context: _Context) -> None:
        messages = behaviour(decode_request(raw, decode), context)
        if inspect.isawaitable(messages):
            await messages
            return
        async with aclosing(messages):
            async for message in messages:
                await context.write(message)

    return write


def _code_name(code: grpc.StatusCode | int) -> str:
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), str(code))


def decode_request(raw: bytes, decode: Callable[[bytes], Message]) -> Message:
    """A request with no field but those that this agent knows. Raises RpcError (INVALID_ARGUMENT)."""
    try:
        request = decode(raw)
    except DecodeError:
        raise invalid("request", "cannot be decoded as the method's message", "encode it by the agent's .proto files") from None
    validate.known(request)
    return request


def _incident(method: str) -> RpcError:
    """An unexpected exception: its text goes to the log, its number to the caller."""
    incident = secrets.token_hex(6)
    event(_log, logging.ERROR, "internal error", exc_info=True, method=method, incident=incident)
    return RpcError(
        error_reason_pb2.ERROR_REASON_INTERNAL,
        f"a defect of the agent; whether something was killed is not known (incident {incident})",
        "look for the incident in the agent's log, and list the processes again",
        incident=incident,
    )
