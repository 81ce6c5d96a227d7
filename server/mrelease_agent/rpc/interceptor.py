"""Around every call: requests are decoded and errors encoded here, and each call is counted and logged."""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from mrelease.v1 import error_reason_pb2
from mrelease_agent.guard.caller import current
from mrelease_agent.guard.gate import Ask, Gate
from mrelease_agent.rpc import validate
from mrelease_agent.rpc.callers import caller_of
from mrelease_agent.rpc.errors import RpcError, invalid
from mrelease_agent.rpc.refusals import refusals
from mrelease_agent.telemetry.logs import event
from mrelease_agent.telemetry.metrics import Metrics

_log = logging.getLogger("mrelease")
#: What these did is logged by the operation, which may outlive the call; health checks are asked for all the time.
_QUIET_WHEN_OK = ("/mrelease.v1.ReleaseService/", "/grpc.health.v1.Health/")

# grpc.aio's own generics differ between its versions; nothing here depends on them.
_Handler = Any
_Context = Any
_Decode = Callable[[bytes], Message]
#: A behaviour with the request still to be decoded: returns the answer, or writes a stream of them and returns None.
_Answer = Callable[[bytes, _Context], Awaitable[Any]]
_unary_handler: Any = grpc.unary_unary_rpc_method_handler
_stream_handler: Any = grpc.unary_stream_rpc_method_handler


class Interceptor(grpc.aio.ServerInterceptor):
    """Turns every error into a status with details, and lets no text of an exception out.

    Requests are decoded here and not by gRPC, which would answer a broken one with INTERNAL. A call with a stream of requests goes
    through as it is: the contract has none, reflection has.
    """

    def __init__(self, metrics: Metrics, gate: Gate | None = None) -> None:
        self._metrics = metrics
        self._gate = gate or Gate()

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]], handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler:
        """See grpc.aio.ServerInterceptor."""
        method = str(handler_call_details.method)
        handler = await continuation(handler_call_details)
        if handler is None:
            return _unary_handler(self._unknown(method))
        if handler.request_streaming:
            return handler
        if handler.response_streaming:
            serve = self._guarded(method, _stream(handler.unary_stream, handler.request_deserializer))
            return _stream_handler(serve, response_serializer=handler.response_serializer)
        serve = self._guarded(method, _unary(handler.unary_unary, handler.request_deserializer))
        return _unary_handler(serve, response_serializer=handler.response_serializer)

    def _unknown(self, method: str) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        async def refuse(_request: bytes, context: _Context) -> bytes:
            error = RpcError(
                error_reason_pb2.ERROR_REASON_UNKNOWN_METHOD,
                "the agent has no such method",
                "use a client of the agent's version, or upgrade the agent",
                method=method[:256],
            )
            self._metrics.request("unknown", error.code.name)
            await context.abort(error.code, error.message, error.trailers())
            return b""

        return refuse

    def _identify(self, context: _Context, method: str) -> None:
        """Establish the caller before a byte of its request is read. Raises RpcError (PERMISSION_DENIED)."""
        caller = caller_of(context)
        current.set(caller)
        ask = Ask(caller, method)
        with refusals(ask):
            self._gate.check(caller, method)

    def _guarded(self, method: str, answer: _Answer) -> _Answer:
        name = method.rpartition("/")[2]
        quiet = method.startswith(_QUIET_WHEN_OK)
        ours = method.startswith("/mrelease.")

        async def serve(raw: bytes, context: _Context) -> Any:
            start = time.monotonic()
            code, reason = grpc.StatusCode.OK, None
            try:
                try:
                    if ours:  # health is for everybody who could connect
                        self._identify(context, name)
                    return await answer(raw, context)
                except RpcError as error:
                    code, reason = error.code, error.details.reason
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

        return serve


def _unary(behaviour: Callable[[Message, _Context], Awaitable[Message]], decode: _Decode) -> _Answer:
    return lambda raw, context: behaviour(_decode(raw, decode), context)


def _stream(behaviour: Callable[[Message, _Context], Any], decode: _Decode) -> _Answer:
    """A behaviour that returns an asynchronous generator of messages, or writes them itself.

    They are written from here, one when the last one is on its way: a caller that reads slowly slows the behaviour down, and one that
    goes away ends it at once, wherever it is, instead of when Python collects it.
    """

    async def write(raw: bytes, context: _Context) -> None:
        messages = behaviour(_decode(raw, decode), context)
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


def _decode(raw: bytes, decode: Callable[[bytes], Message]) -> Message:
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
