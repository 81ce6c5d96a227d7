"""Calls by the SDK, timed as ghz times its own: usage: sdk_program GetNode|KillAndRelease ADDRESS CALLERS CALLS PID [CA CERT KEY].

A process of its own, as ghz is. Prints one line: calls a second, then what each call took, in seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from mrelease import TLS, AsyncClient, Process

#: The first calls on a channel are slower: they connect.
_WARM_UP = 20


async def _measure(method: str, address: str, callers: int, calls: int, pid: int, tls: TLS | None) -> tuple[float, list[float]]:
    async with AsyncClient(address, tls=tls, timeout=60) as node:

        async def get_node() -> None:
            await node.get_node()

        async def check_kill() -> None:
            await node.kill_and_release(Process(pid), validate_only=True)

        call: Callable[[], Awaitable[None]] = {"GetNode": get_node, "KillAndRelease": check_kill}[method]
        for _ in range(_WARM_UP):
            await call()
        took: list[float] = []
        left = iter(range(calls))

        async def caller() -> None:
            for _ in left:
                start = time.perf_counter()
                await call()
                took.append(time.perf_counter() - start)

        start = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return calls / (time.perf_counter() - start), took


def main() -> None:
    """Measure what the command line says."""
    method, address, callers, calls, pid, *files = sys.argv[1:]
    tls = TLS(*files) if files else None
    rate, took = asyncio.run(_measure(method, address, int(callers), int(calls), int(pid), tls))
    print(rate, *took)


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C is for the bench alone
    main()
