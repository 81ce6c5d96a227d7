"""A bare grpc.aio server that returns what it gets: the fastest that an agent of this stack could be. usage: echo_server ADDRESS"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

import grpc
import grpc.aio

METHOD = "/bench.Echo/Echo"


async def _echo(request: bytes, context: Any) -> bytes:
    return request


async def _serve(address: str) -> None:
    server: Any = grpc.aio.server()
    unary: Any = grpc.unary_unary_rpc_method_handler
    generic: Any = grpc.method_handlers_generic_handler
    server.add_generic_rpc_handlers((generic("bench.Echo", {"Echo": unary(_echo)}),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)  # its end: the bench is gone
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C is for the bench alone
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # the agent's
    asyncio.run(_serve(sys.argv[1]))
