"""Calls that are answered with a stream: what both clients do with one, from the request to the last message or the exception."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import grpc
import grpc.aio

from mrelease import _trace, errors
from mrelease._address import Address
from mrelease._calls import ResponseT, StreamCall, ValueT
from mrelease._channel import Channels
from mrelease._failure import Failure, to_error


def iterate(call: StreamCall[ResponseT, ValueT], channels: Channels[grpc.Channel], address: Address) -> Generator[ValueT, None, None]:
    """Make the call when the first value is asked for, and cancel it when the iterator is closed. Raises ``errors.AgentError``."""
    with channels.use() as channel:
        method = channel.unary_stream(call.path, type(call.request).SerializeToString, call.response.FromString)
        # Its type differs between versions of the stubs; it is an iterator that can be cancelled.
        messages: Any = method(call.request, timeout=call.deadline, metadata=_trace.metadata())
        received = 0
        try:
            for message in messages:
                received += 1
                yield call.decode(message)
        except grpc.RpcError as error:
            trailers = [(m.key, m.value) for m in error.trailing_metadata() or ()]
            raise _to_error(Failure(error.code(), error.details() or "", trailers), call, address, received) from None
        finally:
            messages.cancel()


async def aiterate(
    call: StreamCall[ResponseT, ValueT], channels: Channels[grpc.aio.Channel], address: Address
) -> AsyncGenerator[ValueT, None]:
    """``iterate`` for asyncio."""
    with channels.use() as channel:
        method = channel.unary_stream(call.path, type(call.request).SerializeToString, call.response.FromString)
        messages: Any = method(call.request, timeout=call.deadline, metadata=_trace.metadata())
        received = 0
        try:
            async for message in messages:
                received += 1
                yield call.decode(message)
        except grpc.aio.AioRpcError as error:
            trailers = tuple(error.trailing_metadata() or ())
            raise _to_error(Failure(error.code(), error.details() or "", trailers), call, address, received) from None
        finally:
            messages.cancel()


def _to_error(failure: Failure, call: StreamCall[ResponseT, ValueT], address: Address, received: int) -> errors.AgentError:
    error = to_error(failure, address, signals=call.signals, streamed=received > 0, request=call.request)
    if received and call.signals:
        # What refuses a whole call proves nothing of a stream that had begun.
        error.nothing_signalled = False
    return error
